"""How near a linear merge comes to a plain copy of the same bytes.

    python copy_bandwidth.py --rounds 5

A copy reads the base and three experts in parts of 4 MiB and writes and syncs one output of the
base's size; with digests it takes SHA-256 of all of them, as a merge does for its manifest. Each is
done with the inputs in the page cache, and with them put out of it (`posix_fadvise`), as is the
case for checkpoints larger than memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cost_against_mergekit import make_models, quiet
from longcat_fusion import MergeConfig, merge_folders

PART = 4 << 20
NAMES = ("a", "b", "c", "base")


def copy(folder: Path, *, digests: bool) -> None:
    """Read four checkpoints, write one."""
    part = bytearray(PART)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    with (folder / "out" / "copy").open("wb", buffering=0) as out:
        for name in NAMES:
            taken, written = hashlib.sha256(), hashlib.sha256()
            with (folder / name / "model.safetensors").open("rb", buffering=0) as opened:
                while count := opened.readinto(part):
                    view = memoryview(part)[:count]
                    if digests:
                        taken.update(view)
                    if name == "base":
                        out.write(view)
                        if digests:
                            written.update(view)
        os.fsync(out.fileno())


def merge(folder: Path, *, digests: bool) -> None:
    """Average three experts; the output's digest is taken in any case."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    config = MergeConfig(method="linear", digests=digests)
    merge_folders(folder / "base", [folder / n for n in "abc"], folder / "out", config=config)


def forget(folder: Path) -> None:
    """Put the inputs out of the page cache."""
    for name in NAMES:
        file = os.open(folder / name / "model.safetensors", os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    run()
    return time.monotonic() - wall, time.process_time() - cpu


RUNS: dict[str, Callable[[Path], None]] = {
    "copy": lambda folder: copy(folder, digests=False),
    "linear": lambda folder: merge(folder, digests=False),
    "copy with digests": lambda folder: copy(folder, digests=True),
    "linear with digests": lambda folder: merge(folder, digests=True),
}


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_models(folder, 1024, options.layers, 8000)
        os.sync()
        with quiet():
            for _ in range(options.rounds):
                for cache in ("disk", "memory"):
                    for label, run in RUNS.items():
                        if cache == "disk":
                            forget(folder)
                        times = timed(lambda run=run: run(folder))
                        found.setdefault((cache, label), []).append(times)
    rows: list[list[Any]] = []
    shares: dict[tuple[str, str], float] = {}
    for (cache, label), times in found.items():
        plain = "copy with digests" if label.endswith("digests") else "copy"
        ratios = [c[0] / t[0] for c, t in zip(found[cache, plain], times, strict=True)]
        shares[cache, label] = float(np.median(ratios))
        rows.append([
            cache, label, round(float(np.median([t[0] for t in times])), 2),
            round(float(np.median([t[1] for t in times])), 2),
            f"{np.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})",
        ])  # fmt: skip
    cpu = {(row[0], row[1]): row[3] for row in rows}
    columns = ["inputs from", "run", "wall s", "CPU s", "speed against that copy (lowest, highest)"]
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    print(json.dumps({
        "title": "A linear merge against a copy of the same bytes",
        "claim": "80% of a copy's bandwidth was asked. From disk a linear merge of three experts "
        f"runs at {shares['disk', 'linear']:.0%} of it, from the page cache at "
        f"{shares['memory', 'linear']:.0%}; where both take digests, at "
        f"{shares['disk', 'linear with digests']:.0%} and "
        f"{shares['memory', 'linear with digests']:.0%} (medians; see the spread and the load).",
        "columns": columns, "rows": rows,
        "spread": f"{options.rounds} interleaved rounds; medians",
        "notes": [
            (f"{size:,} bf16 parameters in each of four inputs, the output synced to the disk."),
            (f"The load average was {before:.0f} before and {os.getloadavg()[0]:.0f} after, on "
            f"{os.cpu_count()} cores. A copy is one thread and a merge two, which on a loaded "
            "machine have the larger share of it: only a figure from an idle one (load below 1) "
            "says whether 80% is reached."),
            ("From the page cache CPU decides: "
            f"{cpu['memory', 'copy']:.2f} s to copy, {cpu['memory', 'linear']:.2f} s to merge (the "
            "output's digest is part of it), "
            f"{cpu['memory', 'linear with digests'] - cpu['memory', 'linear']:.2f} s more for "
            "SHA-256 of the inputs."),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
