"""A run whose processes are all killed at once, again and again: what is lost, what is there twice.

usage: python kills.py [--kills 200] [--steps 1200]

It is what `tests/test_chaos.py` does, which fails if anything is: the manager, the trainer and two
controllers get SIGKILL at random moments, early and late, and the run is started anew. After each
kill the log is checked; at its end it is counted by a second reader, and trained on once more.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import chaos_run
from test_chaos import kill_again_and_again


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report, committed = kill_again_and_again(
            Path(folder), chaos_run, everything=True, num=options.kills, steps=options.steps
        )
    lost = report.num_started - report.num_committed - report.num_ended - report.num_open
    rows = [
        ["trajectories that were started", report.num_started],
        ["trained on", report.num_committed], ["ended with a reason", report.num_ended],
        ["of these, interrupted by a kill", report.reasons["interrupted"]],
        ["open at the end", report.num_open], ["lost", lost], ["breaches of C1, C2, C3", len(report.breaches)],
        ["steps that were undone by a kill, and taken again", sum(committed.values()) // 8 - options.steps],
    ]  # fmt: skip
    for row in rows:
        print(*row, sep=" | ")
    print(json.dumps({
        "title": "Everything is killed, again and again",
        "claim": f"Over {options.kills} kills of all processes and {options.steps:,} steps, {lost}"
        f" trajectories were lost, and the checker found {len(report.breaches)} breaches (one that is"
        " trained on twice would be one); a second reader counts the same, and training again on the"
        " log gives the same bits at every step",
        "columns": ["what", "number"], "rows": rows,
        "spread": f"one run of {(time.monotonic() - began) / 60:.0f} minutes",
    }))  # fmt: skip


if __name__ == "__main__":
    main()
