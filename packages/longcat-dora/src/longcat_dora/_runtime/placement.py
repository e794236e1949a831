"""Where a controller goes.

To the node whose CPUs are idlest, by measurement, counting what is on its way there.

DORA's report (2601.16725, section 5) puts rollout controllers on the nodes with idle CPUs. What a
cluster reserves says little of that: an environment that waits for a reply reserves a CPU and uses
none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")
_IDLE, _WAITING = 4, 5  # columns of /proc/stat


def choose_node(idle: Mapping[str, float], placed: Iterable[str], *, num_cpus: float) -> str | None:
    """Return the node with the most idle CPUs left; of equals, the one with the fewest controllers.

    Args:
        idle: Node to CPUs that were idle when it was measured.
        placed: The node of each controller that was placed since then, once for each.
        num_cpus: That each of these will use.
    """
    since = list(placed)

    def key(node: str) -> tuple[float, int]:
        return round(idle[node] - num_cpus * since.count(node), 1), -since.count(node)

    return max(sorted(idle), key=key, default=None)


def idle_cpus(seconds: float = 0.1, *, cgroup: Path = _CGROUP) -> float:
    """Measure how many CPUs were idle over a time.

    This machine's, and no more than its cgroup leaves.

    0 where that cannot be told.
    """
    try:
        before, used_s, began = _times(), _used_s(cgroup), time.monotonic()
        time.sleep(seconds)
        idle = sum(_shares(before, _times()))
    except OSError:
        return 0.0
    limit = _limit(cgroup)
    if limit is None:
        return idle
    used = (_used_s(cgroup) - used_s) / (time.monotonic() - began)
    return max(0.0, min(idle, limit - used))


def _limit(cgroup: Path) -> float | None:
    """CPUs that a container may use; `None` if it is not limited (version 2 of cgroups)."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _used_s(cgroup: Path) -> float:
    """Seconds of CPU that a container has used so far; 0 where that is not told."""
    try:
        rows = (cgroup / "cpu.stat").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(row.split()[1]) for row in rows if row.startswith("usage_usec")) / 1e6


def _times() -> list[tuple[int, int]]:
    """Of each CPU: ticks without work, all ticks."""
    rows = [line.split() for line in _STAT.read_text().splitlines()]
    return [
        (int(row[_IDLE]) + int(row[_WAITING]), sum(int(ticks) for ticks in row[1:9]))
        for row in rows
        if row[0].startswith("cpu") and row[0] != "cpu"
    ]


def _shares(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> list[float]:
    spans = [
        (idle - idle_0, all_ - all_0)
        for (idle_0, all_0), (idle, all_) in zip(before, after, strict=True)
    ]
    return [idle / all_ for idle, all_ in spans if all_ > 0]
