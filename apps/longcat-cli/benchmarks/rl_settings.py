"""What chose the defaults of RL, asked again on tasks that did not choose them.

usage: python rl_settings.py --out FOLDER [--seeds 11 12 13] [--domain library] [--steps 30]

One cold start a seed; from it one expert for each setting, and all of them on the seed's own held-out tasks. The
settings differ from the recipe's in what their names say; `mean_std` with one epoch is GSPO as the report states it.
Continues where it was stopped: FOLDER keeps what is done.
"""

import argparse
import dataclasses
import json
import math
import shutil
import statistics
from pathlib import Path

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder, write_json
from longcat_cli.recipe_file import load_recipe, recipe_to_dict
from longcat_cli.stages import cold_start, experts, grow
from longcat_cli.stages.evaluate import evaluate_cell

ARMS = {
    "successes alone, 4 epochs, 2e-4 (default)": {},
    "successes alone, 1 epoch": {"epochs": 1},
    "successes alone, 4 epochs, 1e-3": {"learning_rate": 1e-3},
    "mean_std, 1 epoch (the report's)": {"baseline": "mean_std", "epochs": 1},
    "mean_std, 4 epochs": {"baseline": "mean_std"},
}


def recipe_of(options, seed, **rl):
    recipe = load_recipe("mini", [f"seed={seed}", f"rl.steps={options.steps}",
                                  "cold_start.steps=1500", "grow.eval_tasks=240",
                                  "evaluate.tasks=240"])  # fmt: skip
    return dataclasses.replace(
        recipe,
        groups={options.domain: [options.domain]},
        rl=dataclasses.replace(recipe.rl, **rl),
        noise=dataclasses.replace(recipe.noise, levels=[0.0]),
    )


def begun(path, recipe):
    return RunFolder.open(path) if (path / "run.json").is_file() else RunFolder.create(path, recipe)


def prepared(options, seed):
    """A run folder with its tasks and cold start."""
    folder = begun(options.out / f"seed{seed}" / "start", recipe_of(options, seed))
    for name, stage in (("grow", grow.run), ("cold_start", cold_start.run)):
        if not folder.is_done(name):
            folder.mark_done(name, stage(folder, Display([name])))
    return folder


def trained(options, seed, start, number, rl):
    """A run folder with an expert of this setting."""
    path = options.out / f"seed{seed}" / f"arm{number}"
    if not (path / "run.json").is_file():
        part = path.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(start.path, part)
        record = json.loads((part / "run.json").read_text())
        record["recipe"] = recipe_to_dict(recipe_of(options, seed, **rl))
        write_json(part / "run.json", record)
        part.rename(path)
    folder = RunFolder.open(path)
    stage = f"expert-{options.domain}"
    if not folder.is_done(stage):
        folder.mark_done(stage, experts.run(folder, Display([stage]), options.domain))
    return folder


def passed(folder, model, options):
    """Share of held-out tasks, kept once it is known."""
    kept = folder.path / f"pass.{model.parent.name}.json"
    if not kept.is_file():
        cell = evaluate_cell(str(folder.path), "model", str(model), options.domain, 0.0)
        write_json(kept, cell["row"])
    row = json.loads(kept.read_text())
    return row["passed"] / row["total"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--domain", default="library")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    starts, gains = {}, {arm: [] for arm in ARMS}
    for seed in options.seeds:
        start = prepared(options, seed)
        starts[seed] = passed(start, start.cold_start, options)
        for number, (arm, rl) in enumerate(ARMS.items()):
            folder = trained(options, seed, start, number, rl)
            rate = passed(folder, folder.expert(options.domain) / "model", options)
            gains[arm].append(100 * (rate - starts[seed]))
            print(f"seed {seed}  {arm}: {starts[seed]:.1%} -> {rate:.1%}", flush=True)
    report(options, starts, gains)


def report(options, starts, gains):
    rows = [[arm, *(round(gain, 1) for gain in found), round(statistics.mean(found), 1),
             round(error_of(found), 1)] for arm, found in gains.items()]  # fmt: skip
    best = max(rows, key=lambda row: row[-2])
    default = rows[0]
    for row in rows:
        print("  ".join(str(cell) for cell in row))
    begin = ", ".join(f"{rate:.1%}" for rate in starts.values())
    print(json.dumps({
        "title": "What RL adds, by its settings, on tasks that did not choose them",
        "claim": f"Points of pass@1 that {options.steps} GSPO batches add on {options.domain}: the default "
                 f"{default[-2]} ± {default[-1]}; most by «{best[0]}», {best[-2]} ± {best[-1]}.",
        "columns": ["setting", *(f"seed {seed}" for seed in options.seeds), "mean", "standard error"],
        "rows": rows,
        "spread": "standard error of the mean over the seeds; a cell of 240 tasks is uncertain by 3 points",
        "seeds": options.seeds,
        "notes": [f"Cold starts, before RL: {begin}.", "Noise-free; all else as in the mini recipe."],
    }))  # fmt: skip


def error_of(values):
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


if __name__ == "__main__":
    main()
