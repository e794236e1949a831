"""Which start leaves RL most to find: supervised, or GIFT? Exact pass rates, several seeds.

usage: python gift_start.py [--seeds 5] [--steps 150] [--plot OUT.svg]

64 tasks, answers of three tokens of eight words. The base knows a little (logits of spread 1); the
expert's demonstrations are right for a share of the tasks and wrong, in one token, for the others.
Each start is fitted to the demonstrations until it is there, and then learns by GSPO from its own
attempts, 16 for each task and step.
"""

import argparse
import copy
import json
import math
import random
import statistics
from pathlib import Path

import torch
from _table import WORDS, Table, plot, random_answers, trainer_of
from longcat_gspo import gift_loss

TASKS, BETAS = 64, (math.inf, 20.0, 6.0, 4.0, 2.0)


def demonstrations(answers, share, rng):
    shown = []
    for answer in answers:
        words = list(answer)
        if rng.random() >= share:
            place = rng.randrange(len(words))
            words[place] = (words[place] + rng.randrange(1, WORDS)) % WORDS
        shown.append(words)
    return shown


def fit(base, shown, beta):
    """Start from the base, and learn the demonstrations."""
    model = copy.deepcopy(base)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    target = torch.tensor(shown).flatten()
    places = len(shown[0])
    reference = base.table[:, :places].flatten(0, 1).detach()
    for _ in range(300):
        loss = gift_loss(model.table[:, :places].flatten(0, 1), reference, target, beta=beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def run(beta, share, seed, steps):
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    answers = random_answers(TASKS, (3,), generator)
    model = Table(answers, spread=1.0, seed=seed)
    if beta is not None:
        model = fit(model, demonstrations(answers, share, rng), beta)
    entropy = float(
        torch.distributions.Categorical(logits=model.table.detach()[:, :3]).entropy().mean()
    )
    trainer = trainer_of(model, 0.05)
    curve = [statistics.fmean(model.pass_rates())]
    for _ in range(steps):
        trainer.train([s for task in range(TASKS) for s in model.attempts(task, 16, generator)])
        curve.append(statistics.fmean(model.pass_rates()))
    return curve, entropy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS))
    parser.add_argument("--plot", help="a picture to write, beside the results")
    options = parser.parse_args()
    panels, rows = {}, []
    torch.set_num_threads(1)
    marks = (0, options.steps // 2, options.steps)
    columns = ["demonstrations right", "start", "entropy", *(f"after {n}" for n in marks), "spread"]
    print("| " + " | ".join(columns) + " |")
    print("| --- " * len(columns) + "|")
    for share in (1.0, 0.7, 0.4):
        for beta in (None, *options.betas):
            runs = [run(beta, share, seed, options.steps) for seed in range(options.seeds)]
            panels.setdefault(f"{share:.0%} right", {})[_name(beta)] = [curve for curve, _ in runs]
            means = [statistics.fmean(curve[n] for curve, _ in runs) for n in marks]
            spread = statistics.pstdev(curve[-1] for curve, _ in runs)
            row = [statistics.fmean(e for _, e in runs), *means, spread]
            rows.append([f"{share:.0%}", _name(beta), *(round(value, 3) for value in row)])
            print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    if options.plot:
        plot(panels, options.plot, xlabel="steps of GSPO")
    _tell(columns, rows, options)


def _name(beta):
    if beta is None:
        return "the base"
    return "supervised" if beta == math.inf else f"GIFT, beta {beta:g}"


def _tell(columns, rows, options):
    """Say what came out, as a result."""
    ends = {(row[0], row[1]): row[-2] for row in rows}
    best = {share: max((n for s, n in ends if s == share), key=lambda n: ends[share, n])
            for share in ("100%", "70%", "40%")}  # fmt: skip
    said = ", ".join(f"{share} right: {name} ({ends[share, name]})" for share, name in best.items())
    print(json.dumps({
        "title": "Which start leaves RL most to find: supervised, or GIFT?",
        "claim": "Asked: which start has the best pass rate after GSPO where demonstrations are "
        f"right for some tasks alone. Best: {said}.",
        "columns": columns, "rows": rows,
        "spread": f"mean of {options.seeds} seeds; last column: standard deviation at the end",
        "seeds": list(range(options.seeds)),
        "notes": ["64 tasks, answers of three tokens of eight words; exact pass rates."],
        **({"pictures": [f"results/{Path(options.plot).name}"]} if options.plot else {}),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
