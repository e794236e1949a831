"""Methods at equal tokens on a simulated solver: accuracy against tokens, as a table and a picture.

    python benchmarks/methods.py [--problems 300]

The solver solves a problem with chance p (mean 0.4, correlation 0.2 between attempts); nine in ten
wrong attempts give the problem's one trap. A summary that is shown the right answer among others
finds it with chance `insight`, else it repeats one at random: 0.9 and 0.5 are drawn. Answers cost
100 tokens on average, prompts what they are long. Every method is one schedule.
"""

import argparse
import asyncio
import json
from pathlib import Path
from statistics import fmean

from longcat_heavythink import HeavyConfig, think
from longcat_heavythink.evaluate import SimulatedSolver, bootstrap

WIDTHS = (1, 2, 4, 8, 16)
METHODS = {
    "vote": "vote:{k}", "heavy": "heavy:{k}", "heavy, depth 2": "heavy:{k},2",
    "RSA, 3 rounds": "rsa:{k},{subset},3", "PaCoRe": "pacore:{k},{quarter}",
}  # fmt: skip
SEEDS = (0, 1, 2)


async def run(schedule, insight, problems, seed):
    solver = SimulatedSolver(accuracy=0.4, correlation=0.2, trap=0.9, insight=insight, seed=seed)
    config = HeavyConfig(schedule=schedule, seed=seed)
    right, tokens = [], []
    for number in range(problems):
        got = await think([{"role": "user", "content": f"problem {number}"}], solver, config=config)
        right.append(float(got.answer == f"answer: {solver.truth(number)}"))
        tokens.append(got.usage.total_tokens)
    return right, fmean(tokens)


def picture(path, lines):
    """Draw accuracy against tokens, one line a method, as a small SVG."""
    wide, high, left, low = 640, 380, 60, 330
    most = max(tokens for line in lines.values() for tokens, _ in line)
    least = min(tokens for line in lines.values() for tokens, _ in line)
    from math import log

    def place(tokens, value):
        x = left + (wide - left - 170) * log(tokens / least) / log(most / least)
        return x, low - (low - 20) * value

    colours = ["#3b7dd8", "#d8803b", "#3ba86b", "#a85bd8", "#d84b76", "#8a6d4b"]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}">',
        '<g font-family="sans-serif" font-size="12">',
             f'<rect width="{wide}" height="{high}" fill="white"/>']  # fmt: skip
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = place(least, value)[1]
        parts.append(f'<line x1="{left}" x2="{wide - 165}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{value}</text>')
    tick = 100
    while tick <= most:
        if tick >= least:
            x = place(tick, 0)[0]
            parts.append(f'<text x="{x:.0f}" y="{low + 18}" text-anchor="middle">{tick}</text>')
        tick *= 3 if str(tick)[0] == "1" else 10 / 3
        tick = round(tick)
    parts.append(f'<text x="{left}" y="{high - 12}">tokens of one answer, all calls (log)</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = colours[number % len(colours)]
        points = " ".join("{:.0f},{:.0f}".format(*place(*point)) for point in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{place(*p)[0]:.0f}" cy="{place(*p)[1]:.0f}" r="3" fill="{colour}"/>'
                  for p in line]  # fmt: skip
        y = 30 + 20 * number
        parts.append(f'<rect x="{wide - 155}" y="{y - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{wide - 138}" y="{y}">{name}</text>')
    path.write_text("\n".join([*parts, "</g></svg>\n"]), "utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=200)
    problems = parser.parse_args().problems
    rows, lines = [], {}
    for insight in (0.9, 0.5):
        for name, pattern in METHODS.items():
            if name == "vote" and insight == 0.5:
                continue
            for k in WIDTHS:
                if k == 1 and name not in ("vote", "heavy"):
                    continue
                schedule = pattern.format(k=k, subset=min(4, k), quarter=max(1, k // 4))
                right, tokens = [], []
                for seed in SEEDS:
                    r, t = asyncio.run(run(schedule, insight, problems, seed))
                    right += r
                    tokens.append(t)
                estimate = bootstrap(right)
                label = name if name == "vote" else f"{name}, insight {insight}"
                lines.setdefault(label, []).append((fmean(tokens), estimate.value))
                rows.append([label, k, round(fmean(tokens)), round(estimate.value, 3),
                             f"{estimate.low:.3f} to {estimate.high:.3f}"])  # fmt: skip
    columns = ["method", "K", "tokens an answer", "right", "95% interval"]
    for row in [columns, *rows]:
        print("  ".join(f"{cell!s:>28}" for cell in row))
    shown = {name: line for name, line in lines.items() if "insight 0.5" not in name or
             name.startswith("heavy, insight")}  # fmt: skip
    picture(Path(__file__).parent / "results" / "methods.svg", shown)
    at = {(row[0], row[1]): row for row in rows}
    claim = (
        f"Mean accuracy 0.4: a vote of 16 gives {at['vote', 16][3]}; heavy thinking over 16 gives "
        f"{at['heavy, insight 0.9', 16][3]} if summaries find the right answer nine times in ten, "
        f"{at['heavy, insight 0.5', 16][3]} if every second time."
    )
    print(json.dumps({
        "title": "Methods at equal tokens, simulated", "claim": claim, "columns": columns,
        "rows": rows, "spread": "95% bootstrap interval over problems of three seeds",
        "seeds": list(SEEDS), "pictures": ["results/methods.svg"],
        "notes": ["A simulation: it says how methods compare for a solver so made, not how a model is.",
                  "Below one half voting loses: the trap gets the majority."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
