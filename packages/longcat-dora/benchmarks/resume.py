"""What it takes to continue or archive a long log: memory above a fresh run, and seconds.

usage: python resume.py [--num 1000000] [--repeats 3]

The log is written as a run writes it: groups of 8, a step for each, a checkpoint every 10, parts of
64 MiB; then it is archived, and continued once more. Each side is a process of its own; memory is
the most it ever had.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from longcat_dora import EventLog

GROUP = 8
CONTINUE = """
import sys, time
from pathlib import Path
from longcat_dora import RolloutManager, SchedulerConfig, Task
began = time.monotonic()
tasks = (Task(f"n{n}", n) for n in range(10**9))
folder, version = Path(sys.argv[1]), int(sys.argv[2])
manager = RolloutManager(folder, SchedulerConfig(), tasks=tasks, version=version)
seconds = time.monotonic() - began
assert next(manager._tasks._streams[""].tasks).id == f"n{version}"
manager.close()
"""
ARCHIVE = """
import sys, time
from pathlib import Path
from longcat_dora._books.archive import archive
began = time.monotonic()
assert archive(Path(sys.argv[1]), to=None).files
seconds = time.monotonic() - began
"""
MEASURE = """
status = Path("/proc/self/status").read_text()  # getrusage tells the parent's, if that had more
(most,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
print(int(most) / 1024, seconds)
"""


def write_log(folder, num, segment_bytes=64 * 2**20):
    """Write the log of a run that has trained on so many trajectories."""
    log = EventLog(folder, segment_bytes=segment_bytes)
    log.append(
        {"kind": "opened", "hard_staleness": 2, "at_bound": "wait"},
        {"kind": "published", "version": 0},
    )
    for version in range(num // GROUP):
        names = [f"t{version * GROUP + n:06d}" for n in range(GROUP)]
        name = f"g{version:05d}"
        log.append(
            {"kind": "admitted", "group": name, "task": f"n{version}", "domain": "", "size": GROUP},
            *({"kind": "started", "trajectory": t, "group": name, "version": version, "member": n,
               "attempt": 0} for n, t in enumerate(names)),
            *({"kind": "produced", "trajectory": t, "group": name, "version": version,
               "versions": [version], "reward": 0.5, "tokens": 9, "sampled": 3, "domain": "",
               "duration_s": 0.1, "payload": ["payloads-000.bin", 0, 0, 0]} for t in names),
            {"kind": "committed", "version": version, "trajectories": names},
            {"kind": "published", "version": version + 1},
        )  # fmt: skip
        if version % 10 == 9:
            kept = [version - 9, version + 1]
            log.append({"kind": "saved", "version": version + 1, "kept": kept})
    log.close()
    return num // GROUP


def proceed(folder, version, code=CONTINUE):
    """Continue a log in a process of its own, or archive it; return MiB and seconds."""
    command = [sys.executable, "-c", code + MEASURE, str(folder), str(version)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        version = write_log(folder / "long", options.num)
        size = sum(path.stat().st_size for path in (folder / "long").iterdir()) / 2**20
        seen = {
            "a fresh run": [],
            "continued": [],
            "archived": [],
            "continued, old parts archived": [],
        }
        for number in range(options.repeats):
            seen["a fresh run"].append(proceed(folder / f"fresh{number}", 0))
            seen["continued"].append(proceed(folder / "long", version))
        seen["archived"].append(proceed(folder / "long", version, ARCHIVE))
        for _ in range(options.repeats):
            seen["continued, old parts archived"].append(proceed(folder / "long", version))
    fresh = median(mib for mib, _ in seen["a fresh run"])
    rows = [[way, round(median(m for m, _ in pairs), 1), round(median(m for m, _ in pairs) - fresh, 1),
             round(median(s for _, s in pairs), 2)] for way, pairs in seen.items()]  # fmt: skip
    for row in rows:
        print(*row, sep=" | ")
    more = max(row[2] for row in rows)
    print(json.dumps({
        "title": "Continuing and archiving a long log",
        "claim": f"A log of {options.num:,} trajectories ({size:,.0f} MiB) is continued, and"
        f" archived, within {more} MiB above a fresh run",
        "columns": ["way", "MiB at most", "above a fresh run", "seconds"],
        "rows": rows,
        "spread": f"medians of {options.repeats}; memory varied by "
        f"{max(max(m for m, _ in p) - min(m for m, _ in p) for p in seen.values()):.1f} MiB at"
        " most",
        "notes": [
            "archived once",
            f"load of the machine at the end: {os.getloadavg()[0]:.1f}",
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
