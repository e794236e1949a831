"""Checkpoints in the Hugging Face layout, one tensor per expert on disk, stacked in memory.

- Only the keys that are needed are read, one tensor at a time.
- A missing key, a wrong shape or a truncated file is one error that names the key.
- Saving is atomic: the folder appears whole or not at all.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)$")


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


def save_checkpoint(state: Mapping[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Write one shard and `config.json`; each file is renamed into place when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.detach().contiguous().clone() for key, tensor in split_experts(state)}
    part = folder / f".model.{os.getpid()}.part"
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        part.replace(folder / "model.safetensors")
    finally:
        part.unlink(missing_ok=True)
    part = folder / f".config.{os.getpid()}.part"
    part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / "config.json")


def load_state(model: nn.Module, folder: Path, *, num_ffn: int) -> None:
    """Fill `model` in place from the shards of `folder`."""
    shards = _shard_of_key(folder)
    files: dict[Path, Any] = {}

    def read(key: str) -> Tensor:
        if key not in shards:
            raise ValueError(f"{folder}: the checkpoint must hold {key!r}, and does not")
        path = shards[key]
        if path not in files:
            files[path] = _open(path)
        return files[path].get_tensor(key)

    with torch.no_grad():
        for key, target in model.state_dict(keep_vars=True).items():
            match = _EXPERT.match(key)
            if match is None:
                _copy(target, read(key), key)
                continue
            prefix, kind = match.groups()
            for expert in range(num_ffn):
                name = f"{prefix}.{expert}"
                if kind == "down_proj":
                    _copy(target[expert], read(f"{name}.down_proj.weight"), f"{name}.down_proj")
                else:
                    gate, up = target[expert].chunk(2)
                    _copy(gate, read(f"{name}.gate_proj.weight"), f"{name}.gate_proj")
                    _copy(up, read(f"{name}.up_proj.weight"), f"{name}.up_proj")


def _copy(target: Tensor, source: Tensor, key: str) -> None:
    if target.shape != source.shape:
        raise ValueError(
            f"{key}: the config asks for shape {tuple(target.shape)}, "
            f"the checkpoint holds {tuple(source.shape)}"
        )
    target.copy_(source)


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the index names the shard {path}, which is missing")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file: {error}") from error


def _shard_of_key(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {key: folder / name for key, name in weight_map.items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise FileNotFoundError(
            f"a checkpoint folder must hold model.safetensors or its index, none in {folder}"
        )
    return dict.fromkeys(_open(single).keys(), single)
