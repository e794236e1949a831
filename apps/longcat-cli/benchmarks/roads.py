"""From the experts of `longcat train` to one model: the merge, and two roads on from it.

usage: python roads.py --runs runs/mini/seed0 runs/mini/seed1 runs/mini/seed2 --out FOLDER

Each run is one of recipe `mini` that is through its experts. From its merged model, and from its
cold start, a model learns with the same compute by imitating what the experts did well (the
recipe's default), or by distillation from them (`fuse.road = "distil"`). Compute is counted in
forward passes of a token: one to sample or to judge, three to train; the distillation takes as many
batches as fit into what the recipe's imitation takes. Each road has the best of two rates, chosen
on training tasks. All models are asked held-out tasks, clean and in noise. Continues where it was
stopped: FOLDER keeps every model and every cell.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from itertools import product
from pathlib import Path
from random import Random

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder, read_json, write_json
from longcat_cli.processes import tune_process, worker_pool
from longcat_cli.stages import distil, fuse
from longcat_cli.stages.evaluate import evaluate_cell
from longcat_dora import read_trajectories
from longcat_moe import load_tokenizer, save_tokenizer

ROADS = {"imitate": (4e-4, 1.2e-3), "distil": (1e-4, 4e-4)}
STARTS = ("merged", "cold_start")
NUM_CHOOSING = 60
"""Training tasks of a domain by which a rate is chosen."""
NAMES = {"merged": "the merge", "cold_start": "the cold start"}


def mean_length(folder):
    """Tokens of a trajectory of the experts' runs, on average."""
    lengths = [
        sum(len(segment.token_ids) for segment in trajectory.segments)
        for group in folder.recipe.groups
        for trajectory in read_trajectories(folder.expert(group) / "dora" / "log")
    ]
    return statistics.fmean(lengths)


def num_batches(folder):
    """Batches of a distillation that take what the recipe's imitation takes."""
    recipe = folder.recipe.fuse
    budget = 3 * recipe.steps * recipe.batch_tokens
    return round(budget / (5 * recipe.distil_attempts * mean_length(folder)))


def prepared(out, source, start, road, rate, batches):
    """A run folder that begins from `start`, and shares all that came before."""
    path = out / f"seed{source.recipe.seed}" / f"{road}-from-{start}-{rate:g}"
    rates = {"learning_rate": rate, "distil_learning_rate": rate}
    changed = {"road": road, "distil_steps": batches, "head_steps": 0, **rates}
    recipe = dataclasses.replace(
        source.recipe, fuse=dataclasses.replace(source.recipe.fuse, **changed)
    )
    is_there = (path / "run.json").is_file()
    folder = RunFolder.open(path) if is_there else RunFolder.create(path, recipe)
    if not (path / "merged").exists():
        for name in ("environments", "cold_start", "experts"):
            (path / name).symlink_to((source.path / name).resolve())
        (path / "merged").symlink_to((source.path / start).resolve())
    return folder


def learn(folder):
    """Take the road, unless it is taken already; return the facts."""
    if folder.is_done("fuse"):
        return folder.facts("fuse")
    tune_process()
    began, spent = time.monotonic(), time.process_time()
    with Display(["fuse"]) as display:
        if folder.recipe.fuse.road == "distil":
            model, facts = distil.run(folder, display)
        else:
            model, facts = fuse.imitate(folder, fuse.samples_of(folder), display)
    model.save_pretrained(folder.fused)
    save_tokenizer(load_tokenizer(folder.cold_start), folder.fused, declare=fuse.DECLARE)
    facts |= {"seconds": time.monotonic() - began, "cpu_here": time.process_time() - spent}
    folder.mark_done("fuse", facts)
    return facts


def choosing(folder):
    """Tasks of the training split as held-out ones of a folder beside, to choose rates by."""
    beside = RunFolder(folder.path / "choosing", folder.recipe)
    for domain in folder.recipe.domains:
        lines = folder.tasks(domain, "train").read_text("utf-8").splitlines()
        beside.tasks(domain, "eval").parent.mkdir(parents=True, exist_ok=True)
        beside.tasks(domain, "eval").write_text("\n".join(lines[:NUM_CHOOSING]) + "\n", "utf-8")
    beside.save()
    return beside


def outcomes(pool, folder, model, levels, kept):
    """Reward by (domain, level, task), from a file where they were found before."""
    if kept.is_file():
        return read_json(kept)
    cells = list(product(folder.recipe.domains, levels))
    futures = {
        pool.submit(evaluate_cell, str(folder.path), kept.stem, str(model), *cell): cell
        for cell in cells
    }
    found = {}
    for future in pool.finished(futures, lambda _: None):
        domain, level = futures[future]
        rewards = future.result()["outcomes"]["rewards"]
        found[f"{domain}@{level:g}"] = dict(sorted(rewards.items()))
    write_json(kept, found)
    return found


def mean(found, level):
    """Share passed at a level, over domains."""
    rates = [
        statistics.fmean(reward == 1 for reward in rewards.values())
        for cell, rewards in found.items()
        if cell.endswith(f"@{level:g}")
    ]
    return 100 * statistics.fmean(rates)


def one_run(pool, out, source):
    """Outcomes of every model that is compared, and what each road took."""
    place = out / f"seed{source.recipe.seed}"
    batches, levels, found, taken = num_batches(source), source.recipe.evaluate.noise, {}, {}
    for name, path in (("cold start", source.cold_start), ("merge", source.merged)):
        found[name] = outcomes(pool, source, path, levels, place / f"{name}.json")
    for start, (road, rates) in product(STARTS, ROADS.items()):
        folders = [prepared(out, source, start, road, rate, batches) for rate in rates]
        facts = [learn(folder) for folder in folders]
        scores = [
            mean(outcomes(pool, choosing(f), f.fused, levels[:1], f.path / "chosen by.json"), 0)
            for f in folders
        ]
        best = scores.index(max(scores))
        name = f"{road}, from {NAMES[start]}"
        found[name] = outcomes(pool, source, folders[best].fused, levels, place / f"{name}.json")
        taken[name] = {"rate": rates[best], **facts[best]}
        told = ", ".join(f"{mean(found[name], level):.1f}% at {level:g}" for level in levels)
        print(f"seed {source.recipe.seed}: {name}, rate {rates[best]:g}: {told}",
              file=sys.stderr, flush=True)  # fmt: skip
    return found, taken


def gain(runs, one, other, level):
    """`one` minus `other`, paired by task, in points with a 95% interval over tasks."""
    groups = [
        [float(found[one][cell][task] == 1) - float(reward == 1)
         for task, reward in rewards.items() if task in found[one][cell]]
        for found in runs for cell, rewards in found[other].items() if cell.endswith(f"@{level:g}")
    ]  # fmt: skip
    random = Random(0)
    drawn = sorted(
        statistics.fmean(statistics.fmean(random.choices(g, k=len(g))) for g in groups)
        for _ in range(2000)
    )
    middle = statistics.fmean(map(statistics.fmean, groups))
    return f"{100 * middle:+.1f} ({100 * drawn[50]:+.1f} to {100 * drawn[1949]:+.1f})"


def report(sources, runs, taken):
    levels = sources[0].recipe.evaluate.noise
    rows = []
    for name in runs[0]:
        row = [name]
        for level in levels:
            values = [mean(found[name], level) for found in runs]
            row += [round(statistics.fmean(values), 1), f"{min(values):.1f} to {max(values):.1f}"]
        row.append("-" if name == "merge" else gain(runs, name, "merge", levels[0]))
        about = [t[name] for t in taken if name in t]
        row.append(", ".join(f"{fact['rate']:g}" for fact in about) or "-")
        row.append(round(statistics.fmean(f["seconds"] for f in about)) if about else "-")
        rows.append(row)
    both = [f"{road}, from {NAMES['merged']}" for road in ROADS]
    difference = [gain(runs, both[1], both[0], level) for level in levels]
    columns = ["model"]
    for level in levels:
        columns += [f"passed at noise {level:g}, %", "lowest to highest run"]
    columns += ["over the merge, points (95%)", "rates chosen", "seconds"]
    for row in [columns, *rows]:
        print(" | ".join(map(str, row)))
    batches = [num_batches(source) for source in sources]
    print(json.dumps({
        "title": "From the experts of recipe mini to one model: two roads at equal compute",
        "claim": "From the merge, distillation minus imitation: "
        + ", ".join(f"{d} points at noise {lv:g}" for d, lv in zip(difference, levels, strict=True)),
        "columns": columns, "rows": rows,
        "spread": f"{len(runs)} runs; intervals by drawing tasks anew within each run and domain",
        "seeds": [source.recipe.seed for source in sources],
        "notes": [
            ("Compute in forward passes of a token, 3 to train and 1 to sample or judge: "
            f"{3 * sources[0].recipe.fuse.steps * sources[0].recipe.fuse.batch_tokens:,} for each "
            f"road; the distillation takes {batches} batches of "
            f"{sources[0].recipe.fuse.distil_attempts} attempts. A merge takes none, and what "
            "the experts sampled in their RL costs the imitation nothing."),
            (f"Rates are chosen by clean pass rates on {NUM_CHOOSING} training tasks a domain; "
            "one attempt at each task."),
            "Seconds are by clock and include the start of the sampling process.",
        ],
    }))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sources = [RunFolder.open(path) for path in options.runs]
    with worker_pool(2) as pool:
        found = [one_run(pool, options.out, source) for source in sources]
    report(sources, *zip(*found, strict=True))


if __name__ == "__main__":
    main()
