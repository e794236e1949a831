"""Does it pay to spread rollouts by value? Samples to the same exact pass rate, several seeds.

usage: python budget_curves.py [--model network|table] [--seeds 5] [--steps 400] [--plot OUT.svg]

96 tasks whose answers have one to four tokens of eight words, so that their pass rates begin
between 1/8 and 1/4,096. A step has 384 rollouts. Ways to spread them: alike over all tasks; in
groups of 16 on tasks drawn at random; by the value of the CoBA report, which moves with the policy;
by the knapsack value. The two that allocate know only what they have seen: a running mean of
rewards, by task. Where groups weigh alike, a task does not count more because it was tried more
often. In the network all tasks share the weights; in the table they share nothing, and Adam moves
each task as far as any other, however few its rollouts.
"""

import argparse
import json
import random
import statistics
from pathlib import Path

import torch
from _table import Shared, Table, plot, random_answers, trainer_of
from longcat_gspo import CapabilityValue, allocate_budget, knapsack_value

TASKS, TOTAL, GOALS = 96, 384, (0.25, 0.4, 0.5)
WAYS = (
    "alike", "drawn, groups of 16", "CoBA", "knapsack", "CoBA, groups alike",
    "knapsack, groups alike",
)  # fmt: skip
MODELS, RATES = {"table": Table, "network": Shared}, {"table": 0.05, "network": 2e-3}


def spread(way, seen, capability, rng):
    if way == "alike":
        return [TOTAL // TASKS] * TASKS
    if way == "drawn, groups of 16":
        chosen = set(rng.sample(range(TASKS), TOTAL // 16))
        return [16 if task in chosen else 0 for task in range(TASKS)]
    value = knapsack_value if way.startswith("knapsack") else capability.value()
    return allocate_budget(seen, total=TOTAL, low=2, high=48, value=value)


def run(kind, way, seed, steps):
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    model = MODELS[kind](random_answers(TASKS, (1, 2, 3, 4), generator))
    weigh = "groups" if way.endswith("groups alike") else "samples"
    trainer, capability = trainer_of(model, RATES[kind], weigh=weigh), CapabilityValue()
    seen, curve = [0.05] * TASKS, []
    for _ in range(steps):
        batch = []
        for task, num in enumerate(spread(way, seen, capability, rng)):
            if num:
                group = model.attempts(task, num, generator)
                rate = statistics.fmean(s.reward for s in group)
                weight = min(0.5, num / 32)
                seen[task] += weight * (rate - seen[task])
                batch += group
        capability.observe(seen)
        trainer.train(batch)
        curve.append(statistics.fmean(model.pass_rates()))
    return curve


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", choices=MODELS, default="network")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plot", help="a picture to write")
    options = parser.parse_args()
    shown, rows = {}, []
    torch.set_num_threads(1)
    columns = ["way", *(f"samples to {goal:.0%}" for goal in GOALS), "rate at the end", "spread"]
    print("| " + " | ".join(columns) + " |")
    print("| --- " * len(columns) + "|")
    for way in WAYS:
        curves = [run(options.model, way, seed, options.steps) for seed in range(options.seeds)]
        shown[way] = curves
        ends = [curve[-1] for curve in curves]
        cells = [_samples_to(goal, curves) for goal in GOALS]
        rows.append(
            [way, *cells, round(statistics.fmean(ends), 3), round(statistics.pstdev(ends), 3)]
        )
        print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    if options.plot:
        plot({f"{TOTAL} rollouts a step": shown}, options.plot, xlabel="steps")
    best = max(rows, key=lambda row: row[-2])
    print(json.dumps({
        "title": f"Does it pay to spread rollouts by value? A {options.model}",
        "claim": "Asked: do rollouts spread by a value, with estimated pass rates, learn faster "
        f"than spread alike. After {options.steps} steps the best is {best[0]!r} ({best[-2]}), "
        f"alike has {rows[0][-2]}.",
        "columns": columns, "rows": rows,
        "spread": f"mean of {options.seeds} seeds; last column: standard deviation at the end",
        "seeds": list(range(options.seeds)),
        "notes": [f"{TASKS} tasks, {TOTAL} rollouts a step, {options.steps} steps, exact rates.",
                  "Estimates are running means; several constants of the values are ours."],
        **({"pictures": [f"results/{Path(options.plot).name}"]} if options.plot else {}),
    }))  # fmt: skip


def _samples_to(goal, curves):
    """Mean samples until the pass rate is there, and how many seeds got there."""
    steps = [next((n + 1 for n, x in enumerate(c) if x >= goal), None) for c in curves]
    reached = [step * TOTAL for step in steps if step is not None]
    few = "" if len(reached) == len(curves) else f" ({len(reached)} of {len(curves)})"
    return f"{statistics.fmean(reached):,.0f}{few}" if reached else "-"


if __name__ == "__main__":
    main()
