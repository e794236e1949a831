"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

ROOT = Path("/")
"""Where /proc and /sys are looked for; tests bring their own."""


def usable_cores(root: Path = ROOT) -> float:
    """Cores by affinity, or fewer by the quota of the control group (versions 2 and 1)."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = float(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)
    group = root / "sys/fs/cgroup"
    both = _text(group / "cpu.max").split()
    old = [_text(group / "cpu" / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    for quota, period in (both, old) if len(both) == 2 else (old,):
        if quota.isdigit() and period.isdigit() and int(period):
            return min(cores, int(quota) / int(period))
    return cores


def memory_bytes(root: Path = ROOT) -> int:
    """Bytes this process may use; 0 where that cannot be known."""
    group = root / "sys/fs/cgroup"
    limits = [int(text) for path in ("memory.max", "memory/memory.limit_in_bytes")
              if (text := _text(group / path)).isdigit()]  # fmt: skip
    total = _meminfo(root, "MemTotal")
    if total:
        limits.append(total)
    return min(limits, default=0)


def free_memory_bytes(root: Path = ROOT) -> int:
    """Bytes that are still to be had; 0 where that cannot be known."""
    group, limit = root / "sys/fs/cgroup", memory_bytes(root)
    free = _meminfo(root, "MemAvailable")
    for used, cache in (
        ("memory.current", "memory.stat"),
        ("memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        text = _text(group / used)
        if text.isdigit() and limit:
            # Cached files are given up before anything is refused.
            left = limit - int(text) + _of_stat(_text(group / cache), "inactive_file")
            return max(0, min(left, free or left))
    return free


def processor(root: Path = ROOT) -> tuple[str, set[str]]:
    """The processor's name and what it can do."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return name, flags


def gpus() -> list[dict[str, Any]]:
    """Name and memory of each GPU that torch can use; imports torch."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count()))
    return [{"name": one.name, "memory_bytes": one.total_memory} for one in found]


def free_disk_bytes(place: Path) -> int:
    """Free bytes where a folder is, or would be made."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def describe() -> dict[str, Any]:
    """What a report says of the machine that a run was made on: nothing that names it."""
    return {
        "processor": processor()[0],
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [gpu["name"] for gpu in gpus()],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _meminfo(root: Path, key: str) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return 0


def _of_stat(text: str, key: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in (key, f"total_{key}") and value.isdigit():
            return int(value)
    return 0


def dtype_here(asked: str) -> str:
    """Precision of the weights: `auto` is float32 on a CPU without instructions for bfloat16.

    There bfloat16, as most models are saved, takes several times as long.
    """
    import torch

    if asked != "auto" or torch.cuda.is_available():
        return asked
    can = getattr(torch.cpu, "get_capabilities", dict[str, Any])()
    return asked if any("bf16" in name and there for name, there in can.items()) else "float32"
