"""Beside TRL's GRPOTrainer: SmolLM2-135M-Instruct learns sums of 1 to 15 from its reward, on CPU.

usage: longcat models get smollm2-135m && pip install trl && python beside_trl.py [--seeds 0 1 2]

Both sides: the same model, in bf16 or another `--dtype`, LoRA of rank 16 on all linear layers, tasks, reward, rate,
AdamW, clip, sequence-level ratio, temperature, 4 sums x 8 answers of up to 10 tokens a step. Each
run ends when the mean reward of the last 96 rollouts has reached the goal, or after 30 steps. TRL
has both cores for all it does; ours one for sampling and one for training. Time is from the moment that training is asked
for, models loaded; ours loads the engine's after it. Memory is the largest sum over a side's
processes of what is theirs (PSS). What is finished is kept in `--folder` and not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from _sums import score, trained

CACHE = Path.home() / ".cache" / "longcat"
MODEL = str(CACHE / "models" / "smollm2-135m")
RESULTS = Path(__file__).parents[3] / "packages/longcat-gspo/benchmarks/results"
SIDES = {"longcat": "LongCat (DORA, transformers engine)", "trl": "TRL GRPOTrainer"}
RATE, TEMPERATURE, NUM_TOKENS, GROUPS, SIZE, RANK = 5e-4, 0.8, 10, 4, 8, 16
GOAL, WINDOW = 0.5, 96


def worker(dtype: str) -> Any:
    """Built in the controller's process."""
    import torch
    from longcat_dora.transformers import chat_worker

    torch.set_num_threads(1)
    return chat_worker(
        MODEL, score, max_tokens=NUM_TOKENS, temperature=TEMPERATURE, max_length=64,
        num_rows=GROUPS * SIZE, dtype=dtype,
    )  # fmt: skip


def longcat(seed: int, steps: int, dtype: str) -> None:
    """Our side."""
    import torch
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
    from longcat_gspo import GspoTrainer, TrainerConfig
    from longcat_gspo.transformers import load_model

    torch.set_num_threads(1)
    tasks = trained()
    random.Random(seed).shuffle(tasks)
    model, _ = load_model(MODEL, lora=RANK, dtype=dtype)
    config = TrainerConfig(learning_rate=RATE, temperature=TEMPERATURE, shared_prefixes=True)
    trainer = GspoTrainer(model, config, send="adapter")
    done = Counter[str]()

    def note(group: Any) -> None:
        done["rollouts"] += len(group)
        reward = statistics.mean(trajectory.reward for trajectory in group)
        mark(began, reward, done["rollouts"], done["steps"])

    with tempfile.TemporaryDirectory() as run:
        began = time.monotonic()
        LocalRuntime(
            RunConfig(
                folder=Path(run), max_steps=steps, save_every=10**6, seed=seed,
                scheduler=SchedulerConfig(
                    groups_per_batch=GROUPS, group_size=SIZE, soft_staleness=1, hard_staleness=2,
                    max_running=2 * GROUPS * SIZE,
                ),
            ),
            factory=functools.partial(worker, dtype), trainer=trainer,
            tasks=(Task(f"{n}", tasks[n % len(tasks)]) for n in range(100_000)),
            on_group=note, on_step=lambda now: done.update(steps=1),
        ).run()  # fmt: skip


def trl(seed: int, steps: int, dtype: str) -> None:
    """Theirs."""
    import peft
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(os.cpu_count() or 2)
    begins = [0.0]

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begins[0] = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "reward" in logs:
                step = state.global_step
                mark(begins[0], logs["reward"], step * GROUPS * SIZE, step)

    def reward(completions: Any, answer: Any, **_: Any) -> list[float]:
        pairs = zip(completions, answer, strict=True)
        return [score({"answer": a}, said[0]["content"]) for said, a in pairs]

    tasks = [{"prompt": task["messages"], "answer": task["answer"]} for task in trained()]
    with tempfile.TemporaryDirectory() as run:
        GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, dtype)),
            processing_class=AutoTokenizer.from_pretrained(MODEL),
            reward_funcs=reward, train_dataset=Dataset.from_list(tasks * 10),
            peft_config=peft.LoraConfig(
                r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            args=GRPOConfig(
                output_dir=run, per_device_train_batch_size=GROUPS * SIZE, num_generations=SIZE,
                max_completion_length=NUM_TOKENS, learning_rate=RATE, temperature=TEMPERATURE,
                lr_scheduler_type="constant", beta=0.0, importance_sampling_level="sequence",
                loss_type="grpo", epsilon=3e-4, epsilon_high=4e-4, adam_beta2=0.98,
                adam_epsilon=1e-16, max_steps=steps, logging_steps=1, report_to=[], use_cpu=True,
                bf16=dtype == "bfloat16", save_strategy="no", disable_tqdm=True, seed=seed,
                gradient_checkpointing=False,
            ),
            callbacks=[Watch()],
        ).train()  # fmt: skip


def mark(began: float, reward: float, rollouts: int, steps: int) -> None:
    """Tell the parent of rollouts that have finished."""
    print("mark " + json.dumps([time.monotonic() - began, reward, rollouts, steps]), flush=True)


def tree(pid: int) -> list[int]:
    """A process and those it started."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        below = [int(child) for t in tasks for child in (t / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(one for child in below for one in tree(child))]


def held(pid: int) -> float:
    """Bytes of a process and those it started, shared ones by parts."""
    total = 0
    for one in tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += 1024 * int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0])
    return total


def rewards(marks: list[list[float]]) -> list[float]:
    """Mean reward of the rollouts that finished last, at each mark; 0 before there are enough."""
    means, sizes = list[float](), [now[2] - was[2] for was, now in pairwise([[0] * 4, *marks])]
    for end in range(1, len(marks) + 1):
        size = total = 0.0
        for (_, reward, *_), num in zip(marks[:end][::-1], sizes[:end][::-1], strict=True):
            size, total = size + num, total + num * reward
            if size >= WINDOW:
                break
        means.append(total / size if size >= WINDOW else 0.0)
    return means


def reached(marks: list[list[float]]) -> float | None:
    """Seconds until the mean reward was the goal."""
    pairs = zip(marks, rewards(marks), strict=True)
    return next((mark[0] for mark, reward in pairs if reward >= GOAL), None)


def num_steps(marks: list[list[float]]) -> int:
    """How many were taken."""
    return int(marks[-1][3]) if marks else 0


def run(side: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one side until the goal; read what was finished before."""
    path = options.folder / f"{side}-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    args = ["--side", side, "--seeds", str(seed), "--steps", str(options.steps)]
    out, log = path.with_suffix(".out"), path.with_suffix(".log")
    with out.open("w") as said, log.open("w") as errors:
        child = subprocess.Popen(
            [sys.executable, __file__, *args, "--dtype", options.dtype], stdout=said, stderr=errors
        )
    marks, peak = list[list[float]](), 0.0
    try:
        while child.poll() is None and (reached(marks) is None or num_steps(marks) < options.least):
            time.sleep(0.2)
            peak = max(peak, held(child.pid))
            lines = out.read_text().split("\n")[:-1]
            marks = [json.loads(line[5:]) for line in lines if line.startswith("mark ")]
    finally:
        child.terminate()
        child.wait()
    if num_steps(marks) < options.least:
        sys.exit(f"{side}, seed {seed}: {log.read_text()[-2000:]}")
    found = {"marks": marks, "peak": peak}
    path.write_text(json.dumps(found))
    return found


def draw(runs: dict[tuple[str, int], dict[str, Any]], picture: str) -> None:
    """Reward over time."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for (side, seed), found in runs.items():
        marks = found["marks"]
        means = rewards(marks)
        color = "C0" if side == "longcat" else "C1"
        label = SIDES[side] if seed == min(s for _, s in runs) else None
        axes.plot([m[0] for m in marks], means, color=color, label=label)
    axes.axhline(GOAL, color="gray", linewidth=0.5)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"reward, mean of {WINDOW} rollouts")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(RESULTS / picture)
    pyplot.close(figure)


def report(runs: dict[tuple[str, int], dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and the record."""
    rows, ratios = list[list[Any]](), dict[str, list[float]]()
    for seed in options.seeds:
        told = {}
        for side in SIDES:
            marks, peak = runs[side, seed]["marks"], runs[side, seed]["peak"]
            rate = (marks[-1][2] - marks[0][2]) / (marks[-1][0] - marks[0][0])
            told[side] = [rate, reached(marks), num_steps(marks), peak / 1e9]
            rows.append([SIDES[side], seed, round(rate, 1), told[side][1] and round(told[side][1]),
                         num_steps(marks), round(peak / 1e9, 2)])  # fmt: skip
            rows[-1] = [cell if cell is not None else "not reached" for cell in rows[-1]]
        mine, theirs = told["longcat"], told["trl"]
        ratios.setdefault("rate", []).append(mine[0] / theirs[0])
        if mine[1] and theirs[1]:
            ratios.setdefault("time", []).append(mine[1] / theirs[1])
        ratios.setdefault("peak", []).append(mine[3] / theirs[3])
    columns = ["side", "seed", "rollouts/s", f"seconds to reward {GOAL}", "steps", "peak GB"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    starts = [runs["longcat", seed]["marks"][0][0] for seed in options.seeds]
    spans = {name: f"{min(r):.2f} to {max(r):.2f}" for name, r in ratios.items()}
    means = {name: statistics.geometric_mean(r) for name, r in ratios.items()}
    print(json.dumps({
        "title": "Beside TRL: SmolLM2-135M-Instruct on sums, two cores",
        "claim": "Asked: 3 times the rollouts a second, and the same reward in a third of the "
        f"time. {means['rate']:.1f} times the rollouts, {means['time']:.2f} of the time to a "
        f"reward of {GOAL} where both got there, {means['peak']:.2f} of the peak memory.",
        "columns": columns, "rows": rows,
        "spread": f"ratios of the {len(options.seeds)} pairs, ours over TRL's: rollouts/s "
        f"{spans['rate']}, time {spans['time']}, memory {spans['peak']}",
        "seeds": options.seeds,
        "versions": {name: version(name) for name in ("trl", "transformers", "peft")},
        "notes": [
            f"LoRA of rank {RANK}, {options.dtype}, {GROUPS} sums x {SIZE} answers a step.",
            "GSPO's ratio and clip, the same rate and AdamW on both sides.",
            "All finished rollouts count. Ours draws others for groups without a signal.",
            "Ours may be two versions stale; TRL is on policy.",
            f"Time is from the start of training; ours loads its engine then ({max(starts):.0f} s).",
            *options.note,
        ],
        "pictures": [f"results/{options.picture}"],
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=CACHE / "benchmarks" / "beside-trl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30, help="After which a run ends.")
    parser.add_argument("--least", type=int, default=8, help="Steps that a run has at least.")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--picture", default="beside-trl.svg", help="Its name among the results.")
    parser.add_argument("--note", nargs="*", default=[], help="Of what else the machine did.")
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        call = longcat if options.side == "longcat" else trl
        call(options.seeds[0], options.steps, options.dtype)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = {(side, seed): run(side, seed, options) for seed in options.seeds for side in SIDES}
    draw(runs, options.picture)
    report(runs, options)


if __name__ == "__main__":
    main()
