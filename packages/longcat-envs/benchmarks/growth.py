"""What growth moves: the same goals grown, filled at random, and without a further chain."""

import argparse
import json
import statistics

from longcat_envs.figures import growth_figures
from longcat_envs.history import load_setting
from longcat_envs.world import builtin_worlds

KEYS = ["environments", "toolsets", "tools_min", "tools_max", "tools_mean", "within_1_edges", "within_2_edges",
        "satisfied", "density"]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=int, default=1000)
    parser.add_argument("--domains", nargs="+", default=builtin_worlds())
    given = parser.parse_args()
    rows = []
    for name in given.domains:
        found = growth_figures(load_setting(name), num_environments=given.environments)
        rows += [[name, row["way"], *(row[key] for key in KEYS)] for row in found["rows"]]
    columns = ["domain", "way", *(key.replace("_", " ") for key in KEYS)]
    for line in (columns, *rows):
        print(*(f"{cell!s:>14}" for cell in line))
    grown = [row for row in rows if row[1] == "grown"]
    off = [row for row in rows if row[1] == "growth off"]
    alone = [row for row in rows if row[1] == "growth value 0"]
    sizes = [statistics.mean(row[6] for row in found) for found in (grown, alone)]
    print(json.dumps({
        "title": "Growth, on and off",
        "claim": f"At least {min(r[3] for r in grown)} of {given.environments} grown toolsets "
        f"differ; {min(r[9] for r in grown):.0%} of their tools find all that they need, with "
        f"growth off at most {max(r[9] for r in off):.0%}. They have {sizes[0]:.1f} tools on average, "
        f"{sizes[1]:.1f} with the growth value at 0.",
        "columns": columns, "rows": rows, "seeds": [0],
        "spread": "one run; nothing is random but the seed",
    }))  # fmt: skip


if __name__ == "__main__":
    main()
