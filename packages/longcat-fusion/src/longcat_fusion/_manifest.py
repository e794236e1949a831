"""`merge.json`: what was merged, how, and what came out, with digests of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._config import describe
from ._journal import Finished
from ._plan import FORMAT, Plan

MANIFEST = "merge.json"


def manifest_of(plan: Plan, finished: Mapping[str, Finished]) -> dict[str, Any]:
    """Put the manifest together from the plan and the shards that were finished."""
    tensors = [tensor for shard in plan.shards for tensor in finished[shard.name].tensors]
    moved = sum(tensor["moved"] for tensor in tensors)
    lost = sum(tensor["lost"] for tensor in tensors)
    inputs = [
        {"path": str(path), "sha256": _content(tensors, number)}
        for number, path in enumerate((plan.base, *plan.experts))
    ]
    return {
        "format": FORMAT,
        "made_with": f"longcat-fusion {_version()}",
        "plan": plan.digest,
        "base": inputs[0],
        "experts": inputs[1:],
        "config": describe(plan.config),
        "inputs": {"base": plan.identity["base"], "experts": plan.identity["experts"]},
        "outputs": {
            shard.name: {"bytes": shard.file_bytes, "sha256": finished[shard.name].sha256}
            for shard in plan.shards
        },
        "updates": {
            "moved": moved,
            "lost": lost,
            "lost_share": lost / moved if moved else 0.0,
            "by_tensor": {t["name"]: [t["moved"], t["lost"]] for t in tensors if t["lost"]},
        },
        "copied": [path.name for path in plan.copied],
        "left_out": list(plan.left_out),
        "notes": list(plan.notes),
    }


def _version() -> str:
    try:
        return version("longcat-fusion")
    except PackageNotFoundError:  # run from its source: no reason to lose a merge
        return "from source"


def _content(tensors: list[dict[str, Any]], place: int) -> str | None:
    """Digest of what was read of one checkpoint, whatever its shards; None without digests."""
    lines = [
        f"{tensor['name']} {tensor['digests'][place]}\n"
        for tensor in sorted(tensors, key=lambda tensor: tensor["name"])
        if len(tensor["digests"]) > place
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None
