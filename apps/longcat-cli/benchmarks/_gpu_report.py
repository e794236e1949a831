"""What the GPU script collects: rows under a time limit each, written down as they come.

A row that raises, or takes too long, is a note; it never loses the others.
"""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import time
import traceback
from pathlib import Path

import torch

COLUMNS = ["what", "unit", "ours", "against", "theirs", "ratio"]


class Report:
    """Rows, notes, and the file that holds them from the first row on."""

    def __init__(self, folder: Path, device: str, budget_s: float) -> None:
        self.folder, self.device = folder, device
        self.rows: list[list[object]] = []
        self.notes: list[str] = []
        self.began = time.monotonic()
        self.budget_s = budget_s
        folder.mkdir(parents=True, exist_ok=True)

    def row(self, what, unit, ours, against="", theirs=None, ratio=None) -> None:
        """Add one; numbers are rounded to four digits that count."""
        row = [what, unit, _short(ours), against, _short(theirs), _short(ratio)]
        self.rows.append(row)
        print("| " + " | ".join("" if x is None else str(x) for x in row) + " |", flush=True)
        self.save()

    def note(self, text: str) -> None:
        """Add a sentence."""
        self.notes.append(text)
        print(text, flush=True)
        self.save()

    def save(self) -> None:
        """Write what there is."""
        (self.folder / "partial.json").write_text(
            json.dumps({"rows": self.rows, "notes": self.notes})
        )

    def append(self, name: str, text: str) -> None:
        """Add to a file of its own."""
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    @contextlib.contextmanager
    def section(self, name: str, limit_s: float):
        """Run a part under a limit; what goes wrong there stays there."""
        left = self.budget_s - (time.monotonic() - self.began)
        limit = int(min(limit_s, left))
        if limit < 5:
            self.note(f"{name}: left out, no time was left")
            return
        print(f"-- {name}, {limit} s at most", flush=True)
        began = time.monotonic()
        before = signal.signal(signal.SIGALRM, _too_long)
        outer = signal.alarm(limit)  # seconds that an enclosing part had left
        try:
            yield
        except Exception as error:
            self.append("errors.txt", f"== {name}\n{traceback.format_exc()}")
            traceback.print_exc()
            self.note(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            if outer:
                signal.alarm(max(1, int(outer - (time.monotonic() - began))))
            free(self.device)
            print(f"-- {name}: {time.monotonic() - began:.1f} s", flush=True)


class TooLongError(Exception):
    """A part took longer than it may."""


def _too_long(*_) -> None:
    raise TooLongError("took longer than it may")


def _short(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


def sync(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def free(device: str) -> None:
    """Give cached memory back."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds(call, device: str, *, repeats: int, warm: int = 1) -> float:
    """Median wall time of a call, the device's work included."""
    for _ in range(warm):
        call()
    times = []
    for _ in range(repeats):
        sync(device)
        began = time.perf_counter()
        call()
        sync(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
