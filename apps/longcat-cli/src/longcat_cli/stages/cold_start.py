"""cold start: a tokenizer, a model, and supervised steps on verified trajectories.

The artefact is a checkpoint folder: model, config and tokenizer.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from random import Random
from typing import Any

import torch
from longcat_envs import Demonstration
from longcat_gspo import GspoTrainer, Sample, TrainerConfig, token_batches
from longcat_moe import (
    BiasController,
    ChatFormat,
    LongcatConfig,
    LongcatForCausalLM,
    check_induction,
    init_induction,
    on_meta,
    save_tokenizer,
    space_twins,
    train_tokenizer,
)
from tokenizers import Tokenizer

from longcat_cli.agent import DECLARE
from longcat_cli.display import Shows
from longcat_cli.folder import RunFolder
from longcat_cli.processes import tune_process
from longcat_cli.recipe import Recipe
from longcat_cli.worlds import demonstrate, environment_of, load_worlds, read_tasks

SAVE_EVERY = 50
TOKENIZER_TEXTS = 1500


def run(folder: RunFolder, display: Shows) -> dict[str, Any]:
    """Train from nothing, or from the last checkpoint of this stage; return the facts."""
    recipe = folder.recipe
    tune_process()
    torch.manual_seed(recipe.seed)
    tokenizer, samples = _material(folder, display)
    display.note(doing="laying out the model")
    model = LongcatForCausalLM(model_config(recipe))
    if recipe.model.induction:
        init_induction(model, twins=space_twins(tokenizer))
    before = model.lm_head.weight.detach().clone()
    steps = _learn(folder, model.train(), samples, display)
    model.save_pretrained(folder.cold_start)
    save_tokenizer(tokenizer, folder.cold_start, declare=DECLARE)
    moved = (model.lm_head.weight.detach() - before).norm() / before.norm()
    return {
        "steps": steps,
        "moved": float(moved),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trajectories": len(samples),
        "vocabulary": tokenizer.get_vocab_size(),
        "mean_tokens": sum(len(s.token_ids) for s in samples) / max(len(samples), 1),
    }


def _material(folder: RunFolder, display: Shows) -> tuple[Tokenizer, list[Sample]]:
    """A vocabulary, and what is learned in it."""
    recipe = folder.recipe
    demos = asyncio.run(_demonstrations(folder, display))
    display.note(doing=f"learning a vocabulary of {recipe.model.vocab_size}")
    tokenizer = _tokenizer(demos, recipe)
    samples = [_sample(demo, ChatFormat(tokenizer, declare=DECLARE)) for demo in demos]
    longest = recipe.rl.max_length
    return tokenizer, [s for s in samples if len(s.token_ids) <= longest and any(s.loss_mask)]


def _learn(
    folder: RunFolder, model: LongcatForCausalLM, samples: list[Sample], display: Shows
) -> int:
    """Take the steps, from the last checkpoint of this stage on; return how many it has."""
    settings = folder.recipe.cold_start
    batches = token_batches(
        [len(sample.token_ids) for sample in samples],
        batch_tokens=settings.batch_tokens,
        num_batches=settings.steps,
        seed=folder.recipe.seed + 1,
    )
    trainer = _trainer(model, folder.recipe)
    state = folder.path / "cold_start.state"
    if (state / "trainer.pt").is_file():
        trainer.restore(state)
    log = folder.path / "cold_start.jsonl"
    while trainer.num_steps < settings.steps:
        step = trainer.num_steps
        metrics = trainer.fit([samples[place] for place in batches[step]])
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step + 1, **metrics}) + "\n")
        if (step + 1) % SAVE_EVERY == 0:
            trainer.save(state)
        display.update(
            done=(step + 1) / settings.steps,
            loss=metrics["loss"],
            active_experts=metrics["active_experts"],
        )
    return trainer.num_steps


def model_config(recipe: Recipe) -> LongcatConfig:
    """The architecture of a recipe."""
    sizes = {k: v for k, v in vars(recipe.model).items() if k != "induction"}
    return LongcatConfig(**sizes)


def check_model(recipe: Recipe) -> None:
    """Build the architecture without its memory.

    Raises:
        ValueError: The sizes do not fit together, or leave no room for an induction circuit.
    """
    config = model_config(recipe)
    with on_meta():
        LongcatForCausalLM(config)
    if recipe.model.induction:
        check_induction(config)


def seconds_per_token(recipe: Recipe) -> tuple[int, float]:
    """Parameters of the model, and what one token of a training step costs here."""
    tune_process()
    model = LongcatForCausalLM(model_config(recipe)).train()
    trainer = _trainer(model, recipe)
    length = min(128, recipe.model.max_position_embeddings)
    rng = Random(0)
    size = model.config.vocab_size
    batch = [
        Sample(token_ids=[rng.randrange(size) for _ in range(length)], loss_mask=[True] * length)
        for _ in range(max(1, recipe.cold_start.batch_tokens // length))
    ]
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        trainer.fit(batch)
        best = min(best, time.perf_counter() - began)
    return sum(p.numel() for p in model.parameters()), best / (length * len(batch))


async def _demonstrations(folder: RunFolder, display: Shows) -> list[Demonstration]:
    recipe = folder.recipe
    rng = Random(recipe.seed)
    worlds = load_worlds(recipe.domains)
    demos: list[Demonstration] = []
    for domain in recipe.domains:
        for task in read_tasks(folder.tasks(domain, "train")):
            environment = environment_of(worlds[task.domain], task)
            demo = await demonstrate(
                environment, rng=rng, share_alternative=recipe.cold_start.share_alternative
            )
            if demo is not None:
                demos.append(demo)
            display.note(demonstrations=len(demos))
            await asyncio.sleep(0)  # else Ctrl-C waits for all of them
    rng.shuffle(demos)
    return demos


def _tokenizer(demos: list[Demonstration], recipe: Recipe) -> Tokenizer:
    """Learn the vocabulary on the text as it will be rendered."""
    markup = ChatFormat(train_tokenizer([], vocab_size=300), declare=DECLARE)
    texts = [
        "".join(piece.text for piece in markup.pieces(demo.messages, demo.tools))
        for demo in demos[:TOKENIZER_TEXTS]
    ]
    return train_tokenizer(texts, vocab_size=recipe.model.vocab_size)


def _sample(demo: Demonstration, chat: ChatFormat) -> Sample:
    ids: list[int] = []
    mask: list[bool] = []
    for piece in chat.pieces(demo.messages, demo.tools):
        tokens = chat.encode(piece.text)
        ids += tokens
        mask += [piece.is_sampled and demo.imitate[piece.message]] * len(tokens)
    return Sample(token_ids=ids, loss_mask=mask)


def _trainer(model: LongcatForCausalLM, recipe: Recipe) -> GspoTrainer:
    settings = recipe.cold_start
    controller = BiasController(model, model.config, rate=settings.balance_rate)
    return GspoTrainer(
        model,
        TrainerConfig(
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            decay="cosine",
            total_steps=settings.steps,
            weight_decay=0.01,
        ),
        after_step=lambda: {"active_experts": controller.step()},
    )
