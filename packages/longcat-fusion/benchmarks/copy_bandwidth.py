"""How near a linear merge comes to a plain copy of the same bytes.

    python copy_bandwidth.py --rounds 7

A copy reads the base and three experts in parts of 4 MiB and writes and syncs one output of the
base's size. A merge does that, and the arithmetic; with digests it takes SHA-256 of every input.
"""

from __future__ import annotations

import argparse
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


def copy(folder: Path) -> None:
    """Read four checkpoints, write one."""
    part = bytearray(PART)
    with (folder / "copy").open("wb") as out:
        for name in ("a", "b", "c", "base"):
            with (folder / name / "model.safetensors").open("rb", buffering=0) as opened:
                while count := opened.readinto(part):
                    if name == "base":
                        out.write(memoryview(part)[:count])
        out.flush()
        os.fsync(out.fileno())


def merge(folder: Path, *, digests: bool) -> None:
    """Average three experts."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    config = MergeConfig(method="linear", digests=digests)
    merge_folders(folder / "base", [folder / name for name in "abc"], out, config=config)


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    run()
    return time.monotonic() - wall, time.process_time() - cpu


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    runs: dict[str, Callable[[Path], None]] = {
        "copy": copy,
        "linear": lambda folder: merge(folder, digests=False),
        "linear with digests": lambda folder: merge(folder, digests=True),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_models(folder, 768, 4, 6000)
        with quiet():
            for _ in range(options.rounds):
                for label, run in runs.items():
                    found[label].append(timed(lambda run=run: run(folder)))
    rows: list[list[Any]] = []
    for label, times in found.items():
        shares = [c[0] / t[0] for c, t in zip(found["copy"], times, strict=True)]
        rows.append([
            label, round(float(np.median([t[0] for t in times])), 3),
            round(float(np.median([t[1] for t in times])), 3),
            f"{np.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})",
        ])  # fmt: skip
    columns = ["run", "wall s", "CPU s", "bandwidth against copy (lowest to highest)"]
    for row in [columns, *rows]:
        print(" | ".join(str(cell) for cell in row))
    print(json.dumps({
        "title": "A linear merge against a copy of the same bytes",
        "claim": f"A linear merge of three experts runs at {str(rows[1][3]).split()[0]} of the "
        f"bandwidth of a copy, with digests at {str(rows[2][3]).split()[0]}.",
        "columns": columns, "rows": rows,
        "spread": f"{options.rounds} interleaved rounds; medians",
        "notes": [
            (f"{size:,} bf16 parameters, page cache warm, the output synced to the disk; "
            "a shared machine."),
            (f"CPU time beside the copy's: {rows[1][2] / rows[0][2]:.1f} times, with digests "
            f"{rows[2][2] / rows[0][2]:.1f}. A copy needs hardly any, so that whatever else the "
            "processors do slows the merge alone."),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
