"""Does training in noise help in noise, and what does it cost without? Over domains and seeds.

usage: python noise_2x2.py --out FOLDER [--seeds 0 1 2] [--size reduced|mini]

One cold start a seed, over all domains. From it two experts for each domain, one trained in perfect
worlds and one whose noisy groups meet noise of level 0.3 (half of them are clean); each on held-out
tasks, clean and in noise of that level. `mini` is the recipe, a half longer; `reduced` is what a
few minutes a seed give, stated in the result. Continues where it was stopped: FOLDER keeps every
cell.
`--time-limit` ends before the next cell once so many minutes have gone, and what is published then
names what is missing.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from random import Random

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder, write_json
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import cold_start, experts, grow
from longcat_cli.stages.evaluate import evaluate_cell

LEVEL = 0.3
TRAINED = {"without": [0.0], "in noise": [LEVEL]}
TESTED = (0.0, LEVEL)
SIZES = {
    "mini": ["cold_start.steps=1500", "rl.steps=50", "grow.eval_tasks=240", "evaluate.tasks=240"],
    "reduced": [
        "grow.train_tasks=400", "grow.eval_tasks=60", "grow.share_compound=0",
        "grow.share_clarify=0", "model.hidden_size=96", "model.vocab_size=896",
        "model.q_lora_rank=48", "model.kv_lora_rank=48",
        "model.n_routed_experts=16", "model.zero_expert_num=8", "cold_start.steps=1000",
        "rl.steps=10", "rl.groups_per_batch=4", "rl.warmup_steps=2", "rl.max_running=48",
        "evaluate.tasks=60",
    ],
}  # fmt: skip


def recipe_of(options, seed, levels):
    recipe = load_recipe("mini", [f"seed={seed}", *SIZES[options.size], *options.set])
    return dataclasses.replace(
        recipe,
        groups={domain: [domain] for domain in options.domains},
        noise=dataclasses.replace(recipe.noise, levels=levels, share_clean=0.5),
    )


def prepared(options, seed):
    """A run folder for each way of training; both share tasks and cold start."""
    folders = {}
    for trained, levels in TRAINED.items():
        path = options.out / options.size / f"seed{seed}" / trained.replace(" ", "-")
        recipe = recipe_of(options, seed, levels)
        is_there = (path / "run.json").is_file()
        folders[trained] = RunFolder.open(path) if is_there else RunFolder.create(path, recipe)
    first, *others = folders.values()
    for name, stage in (("grow", grow.run), ("cold_start", cold_start.run)):
        if not first.is_done(name):
            began = time.monotonic()
            facts = stage(first, Display([name]))
            first.mark_done(name, {"seconds": round(time.monotonic() - began), **facts})
    for other in others:
        for name in ("environments", "cold_start"):
            if not (other.path / name).exists():
                (other.path / name).symlink_to((first.path / name).resolve())
    return folders


def trained_expert(folder, domain):
    stage = f"expert-{domain}"
    if not folder.is_done(stage):
        began = time.monotonic()
        facts = experts.run(folder, Display([stage]), domain)
        folder.mark_done(stage, {"seconds": round(time.monotonic() - began), **facts})
    return folder.expert(domain) / "model"


def cell_of(options, seed, trained, domain, level):
    """Where the outcomes of a cell are kept."""
    way = (trained if trained in TRAINED else "without").replace(" ", "-")
    folder = options.out / options.size / f"seed{seed}" / way
    return folder / "cells" / f"{trained}.{domain}.{level}.json"


def measure(options, seed, trained, domain):
    """Train what is not trained yet, and fill its cells."""
    folders = prepared(options, seed)
    folder = folders.get(trained, folders["without"])
    model = trained_expert(folder, domain) if trained in TRAINED else folder.cold_start
    for level in TESTED:
        kept = cell_of(options, seed, trained, domain, level)
        if not kept.is_file():
            found = evaluate_cell(str(folder.path), trained, str(model), domain, level)
            write_json(kept, found["outcomes"])


def run_all(options):
    """Cells by (domain, trained, level): seed to rewards; and what there was no time for."""
    cells, missing, began = {}, [], time.monotonic()
    for seed, domain, trained in product(options.seeds, options.domains, ("cold start", *TRAINED)):
        paths = {level: cell_of(options, seed, trained, domain, level) for level in TESTED}
        is_late = options.time_limit and time.monotonic() - began > 60 * options.time_limit
        if not all(path.is_file() for path in paths.values()):
            if is_late:
                missing.append(seed)
                continue
            measure(options, seed, trained, domain)
        for level, path in paths.items():
            found = json.loads(path.read_text())["rewards"]
            cells.setdefault((domain, trained, level), {})[seed] = found
            line = f"seed {seed}  {domain}, {trained}: {100 * share(found):.1f}% at {level}"
            print(line, file=sys.stderr, flush=True)
    return cells, missing


def share(found):
    return statistics.fmean(reward == 1 for reward in found.values())


def interval(groups):
    """Mean of the groups' means with a 95% interval: each group's values drawn anew, 2000 times."""
    random = Random(0)
    mean = statistics.fmean(map(statistics.fmean, groups))
    means = sorted(
        statistics.fmean(statistics.fmean(random.choices(group, k=len(group))) for group in groups)
        for _ in range(2000)
    )
    return mean, means[50], means[1949]


def told(values):
    mean, low, high = interval(values)
    return f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def passed(cells, domain, trained, level):
    """Whether each task was passed, a list for each seed."""
    return [[float(r == 1) for r in found.values()]
            for found in cells.get((domain, trained, level), {}).values()]  # fmt: skip


def gained(cells, domain, level):
    """What training in noise adds on each task, a list for each seed that has both."""
    one, other = (cells.get((domain, trained, level), {}) for trained in TRAINED)
    return [
        [float(other[seed][task] == 1) - float(one[seed][task] == 1) for task in one[seed]
         if task in other[seed]]
        for seed in one if seed in other
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--domains", nargs="+", default=["library", "shop", "clinic"])
    parser.add_argument("--size", choices=SIZES, default="reduced")
    parser.add_argument(
        "--set", nargs="*", default=[], help="section.key=value, as of `longcat train`"
    )
    parser.add_argument("--time-limit", type=float, default=0, help="minutes; 0 for none")
    parser.add_argument("--note", help="what one must know of the machine")
    options = parser.parse_args()
    report(options, *run_all(options))


def report(options, cells, missing):
    rows = []
    seeds = sorted({seed for found in cells.values() for seed in found})
    places = [*options.domains, "all"]
    for place in places:
        domains = options.domains if place == "all" else [place]
        for trained in ("cold start", *TRAINED):
            by_level = [
                [g for d in domains for g in passed(cells, d, trained, lv)] for lv in TESTED
            ]
            if all(by_level):
                rows.append([place, trained, len(by_level[0]), *map(told, by_level)])
        gains = [[g for d in domains for g in gained(cells, d, level)] for level in TESTED]
        if all(gains):
            rows.append([place, "noise adds, paired", len(gains[0]), *map(told, gains)])
    for row in rows:
        print("  ".join(map(str, row)))
    both = [[g for d in options.domains for g in gained(cells, d, level)] for level in TESTED]
    claim = "Nothing is known yet."
    if all(both):
        claim = (f"Training in noise adds {told(both[1])} points of pass@1 in noise and "
                 f"{told(both[0])} without noise, over training without; {len(both[0])} pairs of "
                 f"experts of {len(seeds)} of {len(options.seeds)} seeds on held-out "
                 "tasks.")  # fmt: skip
    recipe = recipe_of(options, options.seeds[0], [LEVEL])
    print(json.dumps({
        "title": "Trained in noise or not, tested in noise or not",
        "claim": claim,
        "columns": ["domain", "trained", "runs", "pass@1 without noise, %", f"at level {LEVEL}, %"],
        "rows": rows,
        "spread": "95% interval, held-out tasks drawn anew within each run; no variation of seeds",
        "seeds": seeds,
        "notes": [size_of(options, recipe), *spread_over_seeds(options, cells),
                  *([f"Not there yet: {of_seeds(missing, options)}."] if missing else []),
                  *([options.note] if options.note else [])],
    }))  # fmt: skip


def of_seeds(missing, options):
    """How many of a seed's models are not there, seed by seed."""
    whole = len(options.domains) * (1 + len(TRAINED))
    return ", ".join(f"{n} of {whole} models of seed {s}" for s, n in Counter(missing).items())


def size_of(options, recipe):
    rl, model = recipe.rl, recipe.model
    return (f"Size {options.size}: hidden size {model.hidden_size}, {model.n_routed_experts} "
            f"experts, {recipe.cold_start.steps} supervised steps over all domains, then "
            f"{rl.steps} GSPO batches of {rl.groups_per_batch} groups of {rl.group_size} for each "
            f"expert; {recipe.evaluate.tasks} held-out tasks of each domain. Noise in training is "
            f"of level {LEVEL} from the first batch, in half of the groups.")  # fmt: skip


def spread_over_seeds(options, cells):
    """What noise adds, seed by seed and domain by domain, in noise: how alike they are."""
    means = [100 * statistics.fmean(g) for d in options.domains for g in gained(cells, d, LEVEL)]
    if len(means) < 2:
        return []
    error = statistics.stdev(means) / math.sqrt(len(means))
    listed = ", ".join(f"{mean:.1f}" for mean in means)
    whole = f"{statistics.fmean(means):.1f} ± {error:.1f} (standard error over runs)"
    return [f"In noise, run by run, it adds {listed}: {whole}."]


if __name__ == "__main__":
    main()
