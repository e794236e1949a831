"""fuse: the experts into one model, over the cold start they share.

First the models are merged (`merged/`), then the merged model learns from what the experts did well:
the successful trajectories of their RL runs (`fused/`). The 2601 report calls the two model-level and
data-level merging.
"""

from __future__ import annotations

from typing import Any

import torch
from longcat_dora import Trajectory, read_trajectories
from longcat_fusion import MergeConfig, merge_folders
from longcat_gspo import GspoTrainer, Sample, TrainerConfig, token_batches
from longcat_moe import LongcatForCausalLM, load_tokenizer, save_tokenizer

from longcat_cli.agent import DECLARE
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.processes import tune_process


def run(folder: RunFolder, display: Display) -> dict[str, Any]:
    """Merge, then learn; return the facts."""
    recipe, fuse = folder.recipe, folder.recipe.fuse
    tune_process()
    torch.manual_seed(recipe.seed)
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
    merge_folders(folder.cold_start, experts, folder.merged, config=config)
    samples = [sample for group in recipe.groups for sample in _successes(folder, group)]
    model = LongcatForCausalLM.from_pretrained(folder.merged).train()
    if samples and fuse.steps:
        _learn(model, samples, folder, display)
    model.save_pretrained(folder.fused)
    save_tokenizer(load_tokenizer(folder.merged), folder.fused, declare=DECLARE)
    return {"experts": list(recipe.groups), "trajectories": len(samples)}


def _successes(folder: RunFolder, group: str) -> list[Sample]:
    """The newest successful trajectories of an expert's run, each task at most a few times."""
    found: dict[str, list[Trajectory]] = {}
    for trajectory in read_trajectories(folder.expert(group) / "dora" / "log"):
        if trajectory.reward == 1:
            found.setdefault(trajectory.task, []).append(trajectory)
    return [
        Sample(token_ids=segment.token_ids, loss_mask=segment.loss_mask)
        for trajectories in found.values()
        for trajectory in trajectories[-folder.recipe.fuse.per_task :]
        for segment in trajectory.segments
    ]


def _learn(
    model: LongcatForCausalLM, samples: list[Sample], folder: RunFolder, display: Display
) -> None:
    fuse = folder.recipe.fuse
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
        seed=folder.recipe.seed,
    )
    for number, batch in enumerate(batches, start=1):
        metrics = trainer.fit([samples[place] for place in batch])
        display.update(done=number / fuse.steps, loss=metrics["loss"], trajectories=len(samples))
