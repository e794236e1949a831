"""Does it learn, and what does staleness cost? Reward against samples, several seeds, CPU.

usage: python learning_curves.py objectives|staleness [--seeds 4] [--steps 50] [--plot OUT.svg]

Model, task and rate are those of `trl_rollouts.py`: 0.15M parameters, 32 rollouts of 16 tokens a step, the reward is
the share of even tokens.

- objectives: on policy; ours by objective, and TRL's GRPOTrainer with the sequence-level ratio. Needs `trl`, `datasets`.
- staleness: one objective; a rollout waits (lognormal, mean 0.1 s) between its two halves, so that some are old when
  they end. Synchronous, hard bounds, and rollouts that go on under whatever weights are newest.
"""

import argparse
import functools
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from trl_rollouts import LENGTH, make_model, prompts, reward_of, trainer_of, trl, worker

OBJECTIVES = ("gspo", "gspo_token", "grpo", "dapo", "trl")
BOUNDS = {
    "synchronous": {"soft_staleness": 0, "hard_staleness": 0},
    **{f"bound {h}": {"soft_staleness": max(1, h / 2), "hard_staleness": h} for h in (1, 2, 4, 8)},
    "mixed versions": {"soft_staleness": 1, "hard_staleness": 1, "at_bound": "continue"},
}


async def slow_rollout(prompt, policy):
    """Half of the tokens, a wait as for a tool, the other half."""
    import asyncio

    first = await policy.generate(prompt, max_tokens=LENGTH // 2)
    await asyncio.sleep(0.1 * random.lognormvariate(-0.72, 1.2))
    return reward_of([*first, *await policy.generate(prompt[:1], max_tokens=LENGTH // 2)])


def slow_worker(folder):
    import dataclasses

    return dataclasses.replace(worker(folder), rollout=slow_rollout)


def ours(folder, steps, seed, factory, objective="gspo", **scheduler):
    import torch
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
    from longcat_moe import load_tokenizer

    torch.set_num_threads(1)
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in prompts(50_000)]
    rows = []

    def note(progress):
        batch = progress.batch
        mean = sum(t.reward for t in batch) / len(batch)
        stale = sum(int(s) * n for s, n in progress.metrics["staleness"].items()) / len(batch)
        mixed = sum(len(t.versions) > 1 for t in batch) / len(batch)
        rows.append((progress.metrics["elapsed_s"], mean, stale, mixed))

    with tempfile.TemporaryDirectory() as run:
        LocalRuntime(
            RunConfig(
                folder=Path(run), max_steps=steps, save_every=10**6, seed=seed,
                scheduler=SchedulerConfig(groups_per_batch=4, group_size=8, max_running=320, **scheduler),
            ),
            factory=functools.partial(factory, folder), trainer=trainer_of(folder, objective=objective),
            tasks=(Task(f"n{n}", prompt) for n, prompt in enumerate(ids)), on_step=note,
        ).run()  # fmt: skip
    return rows


def run_one(mode, side, folder, steps, seed):
    if side == "trl":
        return [(at, reward, 0, 0) for at, reward, *_ in trl(folder, steps, seed)]
    if mode == "objectives":
        on_policy = BOUNDS["synchronous"]
        return ours(folder, steps, seed, worker, objective=side, **on_policy)
    return ours(folder, steps, seed, slow_worker, **BOUNDS[side])


def smooth(values):
    return [statistics.fmean(values[max(0, n - 4) : n + 1]) for n in range(len(values))]


def report(curves, steps):
    marks = [steps // 4, steps // 2, 3 * steps // 4, steps]
    print(
        "| side | "
        + " | ".join(f"after {n}" for n in marks)
        + " | to 0.8 | s a step | staleness | mixed |"
    )
    print("| --- " * (len(marks) + 5) + "|")
    for side, runs in curves.items():
        rewards = [smooth([row[1] for row in rows]) for rows in runs]
        cells = []
        for mark in marks:
            at = [reward[mark - 1] for reward in rewards]
            cells.append(f"{statistics.fmean(at):.3f} ± {statistics.pstdev(at):.3f}")
        goal = [next((n for n, x in enumerate(r) if x >= 0.8), math.nan) for r in rewards]
        pace = statistics.fmean((rows[-1][0] - rows[0][0]) / (len(rows) - 1) for rows in runs)
        stale, mixed = (statistics.fmean(row[k] for rows in runs for row in rows) for k in (2, 3))
        print(
            f"| {side} | {' | '.join(cells)} | {statistics.fmean(goal):.1f} | {pace:.3f} | {stale:.2f} | {mixed:.0%} |"
        )


def plot(curves, path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for side, runs in curves.items():
        rewards = [smooth([row[1] for row in rows]) for rows in runs]
        middle = [statistics.fmean(at) for at in zip(*rewards, strict=True)]
        spread = [statistics.pstdev(at) for at in zip(*rewards, strict=True)]
        samples = [32 * (n + 1) for n in range(len(middle))]
        (line,) = axes.plot(samples, middle, label=side)
        low, high = (
            [m + sign * s for m, s in zip(middle, spread, strict=True)] for sign in (-1, 1)
        )
        axes.fill_between(samples, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="samples trained on", ylabel="reward, mean of 5 steps")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["objectives", "staleness"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        rows = run_one(options.mode, options.side, options.model, options.steps, options.seed)
        print("rows " + json.dumps(rows))
        return
    sides = OBJECTIVES if options.mode == "objectives" else BOUNDS
    curves = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        for seed in range(options.seeds):
            for side in sides:
                done = subprocess.run(
                    [sys.executable, __file__, options.mode, "--side", side, "--seed", str(seed),
                     "--model", folder, "--steps", str(options.steps)],
                    capture_output=True, text=True,
                )  # fmt: skip
                line = next((x for x in done.stdout.splitlines() if x.startswith("rows ")), None)
                if line is None:
                    sys.exit(done.stderr[-3000:])
                curves[side].append(json.loads(line.removeprefix("rows ")))
                print(
                    f"{side}, seed {seed}: {curves[side][-1][-1][1]:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
    report(curves, options.steps)
    if options.plot:
        plot(curves, options.plot)


if __name__ == "__main__":
    main()
