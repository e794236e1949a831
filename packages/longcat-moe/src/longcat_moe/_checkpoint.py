"""Save checkpoints in the Hugging Face layout, one tensor per expert on disk, stacked in memory.

Saving is atomic: each file is renamed into place when it is whole, `config.json` last. Loading is
`_shards.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)$")


def is_stacked(key: str) -> bool:
    """Whether a weight in memory holds one matrix for each expert."""
    return _EXPERT.match(key) is not None


def split_experts(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the on-disk names: stacked experts become `experts.{e}.{gate,up,down}_proj.weight`."""
    for key, tensor in state.items():
        match = _EXPERT.match(key)
        if match is None:
            yield key, tensor
            continue
        prefix, kind = match.groups()
        for expert, weight in enumerate(tensor.unbind(0)):
            if kind == "down_proj":
                yield f"{prefix}.{expert}.down_proj.weight", weight
            else:
                gate, up = weight.chunk(2)
                yield f"{prefix}.{expert}.gate_proj.weight", gate
                yield f"{prefix}.{expert}.up_proj.weight", up


def add_identity_rows(state: Mapping[str, Tensor], num: int) -> dict[str, Tensor]:
    """Return a state whose stacked gates and ups have zeros for `num` identity experts too."""
    found = dict(state)
    for key, tensor in state.items():
        match = _EXPERT.match(key)
        if match is not None and match.group(2) != "down_proj":
            found[key] = torch.cat([tensor, tensor.new_zeros(num, *tensor.shape[1:])])
    return found


# -- saving ----------------------------------------------------------------------------------


def save_checkpoint(
    state: Mapping[str, Tensor], config: dict[str, Any], folder: Path, *, max_shard_bytes: int
) -> None:
    """Write shards, their index where there are several, and `config.json`."""
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, got {max_shard_bytes}")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _plan_shards(state, max_shard_bytes)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    for name, keys in zip(names, shards, strict=True):
        tensors = dict(split_experts({key: state[key] for key in keys}))
        tensors = {key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}
        _replace(folder / name, lambda part, t=tensors: save_file(t, part, {"format": "pt"}))
    index = folder / "model.safetensors.index.json"
    if len(shards) == 1:
        index.unlink(missing_ok=True)
    else:
        weight_map = {
            disk: name
            for name, keys in zip(names, shards, strict=True)
            for disk, _ in split_experts({key: state[key] for key in keys})
        }
        total = sum(tensor.nbytes for tensor in state.values())
        _write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(folder / "config.json", config)


def _plan_shards(state: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Cut the keys, in order, into shards of at most `limit` bytes (or one tensor)."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += tensor.nbytes
    return shards


def _write_json(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2) + "\n"
    _replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # what the user's umask makes of a new file
        write(part)
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
