"""What the blind solver finds of deep and shallow tasks, and at which cost."""

import argparse
import json
import statistics

from longcat_envs.difficulty import solve_figures
from longcat_envs.history import load_setting
from longcat_envs.tasks import TaskMaker

COLUMNS = ["domain", "difficulty", "tasks", "found", "not found", "other chains",
           "attempts median", "attempts of a found one, 90th"]  # fmt: skip


def row(name, difficulty, number):
    setting = load_setting(name)
    maker = TaskMaker(setting, seed=0, difficulty=difficulty)
    found = solve_figures(setting, (next(maker) for _ in range(number)))
    summary = found["summary"]
    costs = [r["attempts"] for r in found["rows"] if r["found"]]
    return [name, difficulty, number, summary["found"], summary["share_not_found"],
            summary["loopholes"], summary["attempts_median"],
            round(statistics.quantiles(costs, n=10)[8])]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--domains", nargs="+", default=["bank", "hotel", "hr"])
    given = parser.parse_args()
    rows = [row(name, difficulty, given.tasks) for name in given.domains
            for difficulty in ("shallow", "deep")]  # fmt: skip
    for line in (COLUMNS, *rows):
        print(*(f"{cell!s:>16}" for cell in line))
    deep = [r for r in rows if r[1] == "deep"]
    print(json.dumps({
        "title": "A blind solver",
        "claim": "Without seeing the chain, within 10,000 calls, a best-first search finds one "
        f"for {sum(r[3] for r in deep)} of {sum(r[2] for r in deep)} deep tasks.",
        "columns": COLUMNS, "rows": rows, "seeds": [0],
        "spread": "one run; nothing is random but the seed",
        "notes": ["another chain: other calls with the same end; `longcat-envs solve` lists them"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
