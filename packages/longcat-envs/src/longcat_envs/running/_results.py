"""Results of repeated episodes: pass^k, pass@k, and how sure they are.

    pass@k   the chance that at least one of k episodes of a task passes
    pass^k   the chance that all of k episodes of a task pass

Both are the unbiased estimates from n episodes of which c passed (Chen et al. 2021, equation 1; Yao
et al. 2024), averaged over tasks. Intervals are Wilson's with tasks as the units: as the variance
of a share in [0, 1] is at most p(1 - p), they are not too narrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import comb, sqrt
from typing import Any

Z = 1.959963984540054
"""Quantile of a normal distribution for 95%."""


def pass_at(n: int, c: int, k: int) -> float:
    """Return the estimate of pass@k from `n` episodes of which `c` passed; `k` at most `n`."""
    return 1 - comb(n - c, k) / comb(n, k)


def pass_hat(n: int, c: int, k: int) -> float:
    """Return the estimate of pass^k from `n` episodes of which `c` passed; `k` at most `n`."""
    return comb(c, k) / comb(n, k)


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of a mean of `n` shares."""
    if n == 0:
        return 0.0, 1.0
    middle = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def counted(trials: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return for each task how many valid episodes it has, and how many passed."""
    found: dict[str, tuple[int, int]] = {}
    for trial in trials:
        if trial["status"] != "invalid":
            n, c = found.get(trial["task"], (0, 0))
            found[trial["task"]] = (n + 1, c + bool(trial["passed"]))
    return found


def pass_rates(trials: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of passed episodes of each task."""
    return {task: c / n for task, (n, c) in counted(trials).items()}


def summary(trials: Sequence[Mapping[str, Any]], k: int) -> dict[str, Any]:
    """Return pass@1 to pass@k and pass^1 to pass^k with intervals, over tasks that have so many."""
    counts = counted(trials)
    figures: dict[str, Any] = {
        "episodes": len(trials), "invalid": sum(t["status"] == "invalid" for t in trials),
        "tasks": len(counts),
    }  # fmt: skip
    for size in range(1, k + 1):
        enough = [(n, c) for n, c in counts.values() if n >= size]
        for name, estimate in (("pass@", pass_at), ("pass^", pass_hat)):
            if not enough:
                figures[f"{name}{size}"] = None
                continue
            mean = sum(estimate(n, c, size) for n, c in enough) / len(enough)
            low, high = wilson(mean, len(enough))
            figures[f"{name}{size}"] = [round(mean, 4), round(low, 4), round(high, 4)]
    return figures
