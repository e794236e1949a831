"""Generated tests of every tool, and how many damages of a domain's text they notice."""

import argparse
import json

from longcat_envs.checks import damage_figures, tool_figures
from longcat_envs.history import load_setting

COLUMNS = ["domain", "tools", "tests", "tools that acted", "guards", "guards that refused",
           "faults", "damages", "noticed", "share", "reference", "guard", "effect",
           "by reading", "by a test"]  # fmt: skip


def row(name, number):
    setting = load_setting(name)
    tools, damage = tool_figures(setting)["summary"], damage_figures(setting, number=number)
    found = damage["summary"]
    return [name, *(tools[key] for key in ("tools", "tests", "tools_that_acted", "guards",
                                           "guards_that_refused", "faults")),
            found["damages"], found["noticed"], found["share_noticed"],
            *found["kinds"].values(), found["by"]["reading"],
            found["by"]["test"] + found["by"]["reader"]]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--domains", nargs="+", default=["bank", "hotel", "hr"])
    given = parser.parse_args()
    rows = [row(name, given.damages) for name in given.domains]
    for name, *values in zip(COLUMNS, *rows, strict=True):
        print(f"{name:>20}", *(f"{value!s:>12}" for value in values))
    noticed, made = sum(r[8] for r in rows), sum(r[7] for r in rows)
    print(json.dumps({
        "title": "Tests of every tool, and damaged domains",
        "claim": f"{sum(r[2] for r in rows)} generated tests find {sum(r[6] for r in rows)} faults "
        f"against a second reading of the same text; of {made} damages {noticed} are noticed.",
        "columns": COLUMNS, "rows": rows, "seeds": [0],
        "spread": "one run; nothing is random but the seed",
        "notes": ["some damages change nothing that a call can show"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
