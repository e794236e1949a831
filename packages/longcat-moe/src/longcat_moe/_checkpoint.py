"""Checkpoints in the Hugging Face layout, one tensor per expert on disk, stacked in memory.

- Only the keys that are needed are read, one tensor at a time, shard after shard: peak memory is the
  model and one tensor.
- A missing key, a wrong shape or a truncated file is one error that names the key.
- Weights in FP8 with a scale for each block of 128 x 128 (`weight_scale_inv`) are read as numbers.
- Saving is atomic: each file is renamed into place when it is whole, `config.json` last.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)$")
FP8_BLOCK = 128
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


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


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def map_safetensors(data: bytes | memoryview) -> dict[str, Tensor]:
    """Read safetensors bytes without copying them: the tensors lie where the bytes do.

    They must not be written to. (The library's own reader copies, and takes `bytes` alone.)

    Raises:
        ValueError: It is not safetensors.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8 : 8 + length]))
    except ValueError as error:
        raise ValueError(f"weights must be safetensors bytes: {error}") from error
    found: dict[str, Tensor] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            if begin == end:
                found[name] = torch.empty(shape, dtype=dtype)
                continue
            flat = torch.frombuffer(
                data, dtype=dtype, offset=8 + length + begin, count=(end - begin) // dtype.itemsize
            )
            found[name] = flat.view(shape)
    return found


def _write_json(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2) + "\n"
    _replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# -- loading ---------------------------------------------------------------------------------


class Shards:
    """The tensors of a folder, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path_of = _path_of_key(folder)
        self._open: tuple[Path, Any] | None = None

    def __contains__(self, key: str) -> bool:
        return key in self._path_of

    def order(self, key: str) -> str:
        """What to sort by, so that each shard is opened once; unknown keys come first."""
        return str(self._path_of.get(key, ""))

    def read(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of that shape, FP8 blocks scaled.

        Raises:
            ValueError: The key is missing, has another shape, or its shard is cut short.
        """
        tensor = self._raw(key)
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{key}: the config asks for shape {shape}, the checkpoint holds "
                f"{tuple(tensor.shape)}"
            )
        if tensor.dtype == torch.float8_e4m3fn:
            return from_fp8(tensor, self._raw(f"{key}_scale_inv"))
        return tensor

    def _raw(self, key: str) -> Tensor:
        if key not in self._path_of:
            raise ValueError(f"{self.folder}: the checkpoint must hold {key!r}, and does not")
        path = self._path_of[key]
        if self._open is None or self._open[0] != path:
            self._open = (path, _open(path))
        try:
            return self._open[1].get_tensor(key)
        except SafetensorError as error:
            raise ValueError(f"{path} must hold {key!r}, as the index says: {error}") from error


def from_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the numbers that FP8 weights (N, M) stand for, with one scale per 128 x 128 block.

    Raises:
        ValueError: The scales do not cover the weights.
    """
    wanted = tuple(-(-size // FP8_BLOCK) for size in weight.shape)
    if tuple(scale.shape) != wanted:
        raise ValueError(
            f"FP8 scales of weights {tuple(weight.shape)} must have shape {wanted}, got "
            f"{tuple(scale.shape)}"
        )
    full = scale.float()
    for axis, size in enumerate(weight.shape):
        full = full.repeat_interleave(FP8_BLOCK, dim=axis).narrow(axis, 0, size)
    return weight.float() * full


def load_state(
    model: nn.Module, folder: Path, *, num_ffn: int, progress: Progress | None = None
) -> None:
    """Fill `model` in place from the shards of `folder`."""
    shards = Shards(folder)
    parts = [
        (name, part)
        for key, target in model.state_dict(keep_vars=True).items()
        for name, part in _disk_parts(key, target, num_ffn)
    ]
    total, done = sum(part.nbytes for _, part in parts), 0
    with torch.no_grad():
        for name, part in sorted(parts, key=lambda pair: shards.order(pair[0])):
            part.copy_(shards.read(name, tuple(part.shape)))
            done += part.nbytes
            if progress is not None:
                progress(done, total)


def _disk_parts(key: str, target: Tensor, num_ffn: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the on-disk names of a tensor and where each goes; views of the target."""
    target = target.detach()
    if _EXPERT.match(key) is None:
        yield key, target
    else:
        yield from split_experts({key: target[:num_ffn]})


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the index names the shard {path}, which is missing")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file: {error}") from error


def _path_of_key(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{index} must be JSON with a weight_map: {error!r}") from error
        return {key: folder / name for key, name in weight_map.items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise FileNotFoundError(
            f"a checkpoint folder must hold model.safetensors or its index, none in {folder}"
        )
    return dict.fromkeys(_open(single).keys(), single)
