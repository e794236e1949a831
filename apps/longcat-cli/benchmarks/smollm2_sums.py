"""`longcat rl` on a real model: SmolLM2-135M-Instruct learns to answer sums, from its reward alone.

usage: longcat models get smollm2-135m && python smollm2_sums.py [--seeds 0 1 2] [--steps 30]

Two measures on 48 sums that are never trained on, greedy: solved, the number and nothing else; and
right, the number anywhere in the answer, which form alone cannot raise. Runs that were stopped go
on; what is finished is read. Nothing here is timed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _sums import NUM_HELD, held_out, trained

HOME = Path.home() / ".cache" / "longcat" / "benchmarks" / "smollm2-sums"
PICTURE = Path(__file__).parents[3] / "packages/longcat-gspo/benchmarks/results/smollm2-sums.svg"
SUMS = Path(__file__).with_name("_sums.py")
LONGCAT = [sys.executable, "-c", "from longcat_cli.main import run; run()"]


def write_tasks(folder: Path) -> None:
    """Write the sums that are trained on, and those that are held out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tasks in (("held_out", held_out()), ("train", trained())):
        text = "".join(json.dumps(task) + "\n" for task in tasks)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def run(folder: Path, seed: int, steps: int) -> Path:
    """Run one seed to its end, or go on with it; return its folder."""
    out = folder / f"seed-{seed}"
    if (out / "model").is_dir():
        return out
    how = (
        ["--resume"]
        if (out / "rl.json").is_file()
        else [
            "--model", "smollm2-135m", "--tasks", "train.jsonl", "--held-out", "held_out.jsonl",
            "--reward", f"{SUMS}:score", "--lora", "16", "--steps", str(steps), "--groups", "4",
            "--group-size", "8", "--max-tokens", "10", "--max-length", "64", "--temperature", "0.8",
            "--learning-rate", "5e-4", "--staleness", "1", "--evaluate-every", "10", "--dtype",
            "bfloat16",
            "--seed", str(seed),
        ]
    )  # fmt: skip
    subprocess.run(
        [*LONGCAT, "rl", *how, "--out", out.name], cwd=folder, check=True, stdout=sys.stderr
    )
    return out


def measure(folder: Path, out: Path) -> dict[int, tuple[float, float]]:
    """Return shares solved and right of the held-out sums, by step."""
    lines = (folder / "held_out.jsonl").read_text("utf-8").splitlines()
    asked = {f"held-{n}": json.loads(line)["answer"] for n, line in enumerate(lines)}
    found: dict[int, dict[str, tuple[bool, bool]]] = {}
    for line in (out / "answers.jsonl").read_text("utf-8").splitlines():
        said = json.loads(line)
        sum_, answer = asked[said["task"]], said.get("answer", "")
        is_right = sum_ in re.findall(r"\d+", answer)
        found.setdefault(said["step"], {})[said["task"]] = (said["reward"] == 1, is_right)
    return {
        step: tuple(sum(pair[n] for pair in tried.values()) / len(asked) for n in (0, 1))
        for step, tried in sorted(found.items())
    }  # pyright: ignore[reportReturnType]


def draw(curves: dict[int, dict[int, tuple[float, float]]], picture: Path) -> None:
    """Draw both measures of every seed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for n, (seed, curve) in enumerate(curves.items()):
        solved, right = zip(*curve.values(), strict=True)
        axes.plot(list(curve), solved, "o-", color=f"C{n}", label=f"solved, seed {seed}")
        axes.plot(list(curve), right, "x:", color=f"C{n}", label=f"right anywhere, seed {seed}")
    axes.set_xlabel("step of 32 answers")
    axes.set_ylabel("share of 48 held-out sums")
    axes.set_ylim(0, 1)
    axes.legend(fontsize="small")
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=HOME)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    write_tasks(options.folder)
    outs = {seed: run(options.folder, seed, options.steps) for seed in options.seeds}
    curves = {seed: measure(options.folder, out) for seed, out in outs.items()}
    draw(curves, options.picture)
    rows: list[list[Any]] = []
    for seed, curve in curves.items():
        first, *_, last = curve
        rows.append([seed, last, *curve[first], *curve[last]])
    ends = [round(statistics.mean(row[n] for row in rows), 3) for n in range(2, 6)]
    print("| seed | steps | solved before | right before | solved after | right after |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" for cell in row) + " |")
    print(json.dumps({
        "title": "longcat rl on SmolLM2-135M-Instruct: sums of 1 to 15",
        "claim": "Asked: at least 20 points over zero-shot on held-out tasks. Mean of the seeds: "
        f"solved (the number and nothing else) {ends[0]} before, {ends[2]} after; right number anywhere {ends[1]} before, {ends[3]} after.",
        "columns": ["seed", "steps", "solved before", "right before", "solved after",
        "right after"],
        "rows": rows,
        "spread": f"each seed is a row; {NUM_HELD} held-out sums, greedy, so that one sum is 2.1 points",
        "seeds": options.seeds,
        "notes": ["LoRA of rank 16, 4 sums x 8 answers a step, temperature 0.8, rate 5e-4, staleness 1.",
                  "Not timed: the machine did other work beside it."],
        "pictures": [f"results/{options.picture.name}"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
