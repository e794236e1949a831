"""fuse: the experts into one model, over the cold start they share.

First the models are merged (`merged/`), then the merged model learns (`fused/`), by one of two
roads: from what the experts did well, the successful trajectories of their RL runs with mistakes
masked; or from the experts themselves, who judge what it samples (`distil.py`). The 2601 report
calls the merge and the first road model-level and data-level merging.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from longcat_dora import read_trajectories
from longcat_fusion import MergeConfig, merge_folders
from longcat_gspo import GspoTrainer, Sample, TrainerConfig, token_batches
from longcat_moe import (
    LongcatForCausalLM,
    add_prediction_head,
    load_tokenizer,
    mtp_loss,
    save_tokenizer,
)

from longcat_cli.agent import DECLARE
from longcat_cli.display import Shows
from longcat_cli.folder import RunFolder
from longcat_cli.lessons import relative_change
from longcat_cli.processes import tune_process
from longcat_cli.recipe import Fuse, Recipe

from . import distil
from ._successes import successes


def run(folder: RunFolder, display: Shows) -> dict[str, Any]:
    """Merge, then learn; return the facts."""
    recipe = folder.recipe
    tune_process()
    display.note(doing=f"merging {len(recipe.groups)} experts")
    merge_experts(folder, folder.merged)
    display.note(doing="reading what the experts did well")
    samples = samples_of(folder)
    if recipe.fuse.road == "distil" and recipe.fuse.distil_steps:
        model, facts = distil.run(folder, display)
    else:
        model, facts = imitate(folder, samples, display)
    model.save_pretrained(folder.fused)
    save_tokenizer(load_tokenizer(folder.merged), folder.fused, declare=DECLARE)
    moved = relative_change(folder.merged, folder.fused)
    head_steps = recipe.fuse.head_steps if samples else 0
    if head_steps:
        train_head(model, samples, recipe, display).save_pretrained(folder.fused)
    return {
        "experts": list(recipe.groups),
        "road": recipe.fuse.road,
        **facts,
        "moved": moved,
        "head_steps": head_steps,
    }


def imitate(
    folder: RunFolder, samples: list[Sample], display: Shows
) -> tuple[LongcatForCausalLM, dict[str, Any]]:
    """Return the merged model after steps on what the experts did well, and what was done.

    Without steps to take it is the merged model as it is.
    """
    recipe = folder.recipe
    model = LongcatForCausalLM.from_pretrained(folder.merged).train()
    steps = recipe.fuse.steps if samples and recipe.fuse.road == "imitate" else 0
    if steps:
        learn(model, samples, recipe, display)
    return model, {"trajectories": len(samples), "steps": steps}


def merge_experts(folder: RunFolder, out: Path) -> None:
    """Merge the experts' weights over the cold start into a folder."""
    recipe, fuse = folder.recipe, folder.recipe.fuse
    experts = [folder.expert(group) / "model" for group in recipe.groups]
    config = MergeConfig(
        normalise=fuse.normalise,
        drop=fuse.drop,
        erase=fuse.erase,
        scale=fuse.scale,
        # The average: what experts learned alike stays whole, what is noise of one run shrinks.
        weights=(1 / len(experts),) * len(experts),
        seed=recipe.seed,
    )
    merge_folders(folder.cold_start, experts, out, config=config, replace=True)


def samples_of(folder: RunFolder) -> list[Sample]:
    """What the experts did well, from their logs."""
    return [
        sample
        for group in folder.recipe.groups
        for sample in successes(
            read_trajectories(folder.expert(group) / "dora" / "log"),
            per_task=folder.recipe.fuse.per_task,
        )
    ]


def learn(
    model: LongcatForCausalLM,
    samples: list[Sample],
    recipe: Recipe,
    display: Shows | None = None,
) -> None:
    """Take supervised steps on samples, in an order that the seed decides."""
    fuse = recipe.fuse
    torch.manual_seed(recipe.seed)
    trainer = GspoTrainer(
        model,
        TrainerConfig(
            learning_rate=fuse.learning_rate,
            warmup_steps=fuse.steps // 20,
            decay="linear",
            total_steps=fuse.steps,
        ),
    )
    batches = token_batches(
        [len(sample.token_ids) for sample in samples],
        batch_tokens=fuse.batch_tokens,
        num_batches=fuse.steps,
        seed=recipe.seed,
    )
    for number, batch in enumerate(batches, start=1):
        metrics = trainer.fit([samples[place] for place in batch])
        if display is not None:
            done = share_done(fuse, number)
            display.update(done=done, loss=metrics["loss"], samples=len(samples))


def train_head(
    model: LongcatForCausalLM,
    samples: list[Sample],
    recipe: Recipe,
    display: Shows | None = None,
) -> LongcatForCausalLM:
    """Add a head that guesses the token after the next, and train it alone (LongCat-Flash, 2.4)."""
    fuse = recipe.fuse
    torch.manual_seed(recipe.seed)
    large = add_prediction_head(model).eval()
    head = large.model.mtp
    assert head is not None, "it was just added"
    optimiser = torch.optim.AdamW(head.parameters(), lr=fuse.head_learning_rate, weight_decay=0.0)
    long = [sample for sample in samples if len(sample.token_ids) > 2]
    batches = token_batches(
        [len(sample.token_ids) for sample in long],
        batch_tokens=fuse.batch_tokens,
        num_batches=fuse.head_steps,
        seed=recipe.seed + 1,
    )
    for number, batch in enumerate(batches, start=1):
        lengths = [len(long[place].token_ids) for place in batch]
        ids_BT = torch.tensor([[token for place in batch for token in long[place].token_ids]])
        with torch.no_grad():
            hidden_BTD = large.model(ids_BT, lengths=lengths)
        loss = mtp_loss(large, hidden_BTD, ids_BT, lengths=lengths)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        if display is not None:
            done = share_done(fuse, fuse.steps_of_road + number)
            display.update(done=done, head_loss=loss.item())
    return large


def share_done(fuse: Fuse, number: int) -> float:
    """Of the stage, after so many of the steps of its road and of the head."""
    return number / (fuse.steps_of_road + fuse.head_steps)
