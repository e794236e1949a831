"""What growth moves: the same goals and sizes, grown and filled at random."""

import argparse
import json

from longcat_envs.figures import growth_figures
from longcat_envs.history import load_setting

KEYS = ["environments", "toolsets", "tools_min", "tools_max", "within_1_edges", "within_2_edges",
        "satisfied", "density"]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=int, default=1000)
    parser.add_argument("--domains", nargs="+", default=["bank", "hotel", "hr"])
    given = parser.parse_args()
    rows = []
    for name in given.domains:
        found = growth_figures(load_setting(name), num_environments=given.environments)
        rows += [[name, row["way"], *(row[key] for key in KEYS)] for row in found["rows"]]
    columns = ["domain", "way", *(key.replace("_", " ") for key in KEYS)]
    for line in (columns, *rows):
        print(*(f"{cell!s:>14}" for cell in line))
    grown = [row for row in rows if row[1] == "grown"]
    off = [row for row in rows if row[1] != "grown"]
    print(json.dumps({
        "title": "Growth, on and off",
        "claim": f"At least {min(r[3] for r in grown)} of {given.environments} grown toolsets "
        f"differ; {min(r[8] for r in grown):.0%} of their tools find all that they need, with "
        f"growth off at most {max(r[8] for r in off):.0%}.",
        "columns": columns, "rows": rows, "seeds": [0],
        "spread": "one run; nothing is random but the seed",
    }))  # fmt: skip


if __name__ == "__main__":
    main()
