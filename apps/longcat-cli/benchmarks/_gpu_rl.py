"""Weights from trainer to engine on one card, and a run that learns there."""

from __future__ import annotations

import asyncio
import functools
import tempfile
import time
from pathlib import Path

import torch
from _gpu_models import config_of, ours_of
from _gpu_report import Report, free, sync
from longcat_moe import Engine, LongcatConfig, LongcatForCausalLM, get_preset

LENGTH = 16


def _trainer(model, device: str, rate: float):
    from accelerate import Accelerator
    from longcat_gspo import ClipRange, GspoTrainer, TrainerConfig

    config = TrainerConfig(
        learning_rate=rate, clip=ClipRange(low=0.2, high=0.2), chunked_log_probs=True,
        micro_batch_tokens=16_384,
    )  # fmt: skip
    return GspoTrainer(model, config, accelerator=Accelerator(cpu=device == "cpu"))


def handover(report: Report, name: str) -> None:
    """As bytes, the way between processes, and as tensors on the card."""
    device = report.device
    trainer = _trainer(ours_of(config_of(name), device, torch.bfloat16), device, 1e-4)
    model = trainer.accelerator.unwrap_model(trainer.model)
    engine = Engine(model.config, num_slots=4, max_length=128, dtype=torch.bfloat16, device=device)
    size = 2 * sum(t.numel() for t in model.state_dict().values())
    sent = ours_of(model.config, device, torch.bfloat16).eval()
    sent.load_state_dict(model.state_dict())  # what an engine should have: the weights, rounded
    for version in range(2):  # the first time, memory is taken from the system
        sync(device)
        began = time.perf_counter()
        weights = trainer.weights()
        wrote = time.perf_counter() - began
        engine.load_weights(version, weights)
        sync(device)
        spent = time.perf_counter() - began
        del weights
    what = f"weights to the engine, {name}, bf16, {size / 1e9:.2f} GB"
    report.row(f"{what}, as bytes", "GB/s", size / spent / 1e9)
    report.row(f"{what}, as bytes", "ms", 1e3 * spent, "of it writing", 1e3 * wrote, wrote / spent)
    _same(report, f"{what}, as bytes", sent, engine, 1, device)
    for version in range(2, 4):
        sync(device)
        began = time.perf_counter()
        fresh = ours_of(model.config, device, torch.bfloat16, is_drawn=False)
        fresh.load_state_dict(model.state_dict())
        engine.add_model(version, fresh)
        sync(device)
        spent = time.perf_counter() - began
    report.row(f"{what}, as tensors", "GB/s", size / spent / 1e9)
    _same(report, f"{what}, as tensors", sent, engine, 3, device)


def _same(report: Report, what: str, model, engine: Engine, version: int, device: str) -> None:
    prompt = list(range(5, 45))

    async def ask():
        c = await engine.open(version)
        got = await engine.generate(c, prompt, max_tokens=32, stop_ids=())
        await engine.close(c)
        return got

    got = asyncio.run(ask())
    model.eval()
    with torch.no_grad():
        ids = torch.tensor([prompt + got.token_ids], device=device)
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
    gap = (chosen - torch.tensor(got.log_probs)).abs()
    report.row(f"{what}: log-probs, engine against forward", "largest difference", float(gap.max()),
               "mean", float(gap.mean()))  # fmt: skip


async def _rollout(prompt, policy):
    answer = await policy.generate(prompt)
    return sum(token % 2 == 0 for token in answer) / LENGTH


def worker(folder: str, device: str):
    """Built where rollouts run."""
    from longcat_dora import Worker

    config = LongcatConfig.from_pretrained(folder)
    engine = Engine(config, num_slots=160, max_length=LENGTH + 48, device=device)
    return Worker(engine=engine, rollout=_rollout, max_tokens=LENGTH)


def learning(report: Report, *, steps: int, max_s: float) -> None:
    """dora, gspo and the engine; the reward is the share of even tokens of 16."""
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task, check, read_events

    device, rewards, marks = report.device, [], []

    def note(progress) -> None:
        rewards.append(progress.metrics["reward"])
        marks.append(time.monotonic())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        start = str(folder / "model")
        LongcatForCausalLM(get_preset("tiny")).save_pretrained(start)
        model = LongcatForCausalLM.from_pretrained(start).train()
        config = RunConfig(
            folder=folder / "run", max_steps=steps, save_every=10**6, max_seconds=max_s,
            scheduler=SchedulerConfig(groups_per_batch=4, group_size=8, hard_staleness=4),
        )  # fmt: skip
        LocalRuntime(
            config, factory=functools.partial(worker, start, device),
            trainer=_trainer(model, device, 2e-3),
            tasks=(Task(f"n{n}", [3 + n % 4]) for n in range(100_000)), on_step=note,
        ).run()  # fmt: skip
        breaches = check(read_events(config.path / "log")).breaches
    tail = rewards[-5:]
    what = f"dora, gspo and engine on one device, even tokens, {len(rewards)} steps of 32"
    report.row(
        what, "reward of the last 5 steps", sum(tail) / len(tail), "first 5", sum(rewards[:5]) / 5
    )
    report.row(what, "s a step", (marks[-1] - marks[0]) / max(1, len(marks) - 1))
    report.row(what, "breaches of the staleness contract", len(breaches))
    curve = ", ".join(f"{reward:.2f}" for reward in rewards[::4])
    report.note(f"reward, every fourth step: {curve}")
    free(device)
