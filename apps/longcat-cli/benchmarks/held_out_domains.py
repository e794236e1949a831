"""What a model that was trained in three worlds reaches in the five that nobody trains on.

usage: longcat train --recipe worlds --out RUN && python held_out_domains.py RUN [--tasks 60]

Held-out tasks of the worlds that the run was trained in, and shallow tasks of the held-out domains.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from longcat_cli.folder import RunFolder
from longcat_envs.figures import held_out

LONGCAT = [sys.executable, "-m", "longcat_cli.main", "eval"]
MODELS = ("cold_start", "fused")


def cells(options, domain):
    models = [word for model in MODELS for word in ("--model", model)]
    asked = ["--domain", domain, "--noise", "0", "--tasks", str(options.tasks), "--json"]
    done = subprocess.run(
        [*LONGCAT, str(options.run), *models, *asked], check=True, stdout=subprocess.PIPE, text=True
    )
    return {row["model"]: row for row in json.loads(done.stdout)["rows"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--tasks", type=int, default=60)
    options = parser.parse_args()
    trained = RunFolder.open(options.run).recipe.domains
    rows = []
    for split, names in (("trained on", trained), ("held out", sorted(held_out()))):
        for name in names:
            domain = name if name.endswith(".world") else f"{name}.world"
            found = cells(options, domain)
            rates = [round(100 * found[m]["passed"] / found[m]["attempts"], 1) for m in MODELS]
            rows.append([domain.removesuffix(".world"), split, options.tasks, *rates])
            print(*rows[-1], sep="\t", flush=True)
    means = {
        split: [sum(row[place] for row in rows if row[1] == split) /
                sum(row[1] == split for row in rows) for place in (3, 4)]
        for split in ("trained on", "held out")
    }  # fmt: skip
    print(json.dumps({
        "title": "In domains that were never trained on",
        "claim": "Asked: what a model of 3M parameters reaches there. Fused, "
        f"{means['held out'][1]:.1f}% of shallow tasks in the five held-out domains, "
        f"{means['trained on'][1]:.1f}% of the held-out tasks in the three it was trained in.",
        "columns": ["domain", "split", "tasks", *MODELS],
        "rows": rows,
        "spread": "one attempt at each task; a rate of 10% from 60 tasks is known to 8 points",
        "seeds": [RunFolder.open(options.run).recipe.seed],
        "notes": ["Recipe worlds; no noise."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
