"""The whole report in miniature: what each stage adds, over seeds.

usage: python mini.py --out FOLDER [--seeds 0 1 2] [--recipe mini] [--set key=value]

Runs `longcat train` once a seed in FOLDER/seedN (continued where it was stopped, kept when it is done), with `--audit`
derives each run a second time, and prints held-out pass@1 of every model, clean and in noise, with the time of the whole.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

from longcat_cli.audit import audit
from longcat_cli.folder import RunFolder
from longcat_cli.train import stages_of

LONGCAT = [sys.executable, "-m", "longcat_cli.main", "train"]


def run_of(options, seed):
    path = options.out / f"seed{seed}"
    begun = (path / "run.json").is_file()
    new = ["--recipe", options.recipe, "--set", f"seed={seed}", "--out", str(path)]
    new += [part for change in options.set for part in ("--set", change)]
    arguments = ["--resume", str(path)] if begun else new
    subprocess.run([*LONGCAT, *arguments], check=True, stdout=sys.stderr)
    return RunFolder.open(path)


def error_of(values):
    return statistics.stdev(values) / math.sqrt(len(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--set", action="append", default=[], help="as longcat train takes it")
    parser.add_argument("--audit", action="store_true", help="some five minutes a run")
    parser.add_argument("--note", help="what one must know of the machine")
    options = parser.parse_args()
    folders = [run_of(options, seed) for seed in options.seeds]
    audited = folders if options.audit else []
    wrong = [line for folder in audited for _, lines in audit(folder) for line in lines]
    rates = [folder.facts("evaluate") for folder in folders]
    levels = folders[0].recipe.evaluate.noise
    rows = []
    for kind in ("cold_start", "experts", "merged", "fused"):
        for noise in levels:
            found = [100 * rate[f"{kind}@{noise}"] for rate in rates]
            error = round(error_of(found), 1) if len(found) > 1 else "one seed"
            rows.append([kind, noise, *(round(r, 1) for r in found),
                         round(statistics.mean(found), 1), error])  # fmt: skip
    minutes = [f.spent_s(stages_of(f.recipe)) / 60 for f in folders]
    staleness = max(int(key) for folder in folders for group in folder.recipe.groups
                    for key in folder.facts(f"expert-{group}")["staleness"])  # fmt: skip
    gain = [100 * (rate["experts@0.0"] - rate["cold_start@0.0"]) for rate in rates]
    tasks = folders[0].recipe.evaluate.tasks
    error = 100 * math.sqrt(0.25 / tasks)  # at most: near one half
    for row in rows:
        print("  ".join(str(cell) for cell in row))
    print(json.dumps({
        "title": f"Recipe {options.recipe}{', '.join(['', *options.set])}: held-out pass@1 in per cent",
        "claim": f"RL adds {statistics.mean(gain):.1f} points to the cold start, each expert in its own "
                 f"domain.",
        "columns": ["model", "noise", *(f"seed {seed}" for seed in options.seeds), "mean", "standard error"],
        "rows": rows,
        "spread": f"standard error of the mean over the seeds; a cell of {tasks} tasks is uncertain by {error:.0f} points",
        "seeds": options.seeds,
        "notes": [
            f"Points that RL adds, seed by seed: {', '.join(f'{g:.1f}' for g in gain)}.",
            f"Minutes, seed by seed: {', '.join(f'{m:.1f}' for m in minutes)}. {options.note or ''}".strip(),
            f"Worst staleness {staleness}."
            + (f" The audit has {len(wrong)} complaints." if audited else " Not audited."),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
