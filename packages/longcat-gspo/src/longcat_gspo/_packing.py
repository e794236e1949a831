"""Tensors as safetensors bytes, each copied once, from wherever it lies to its place in the whole.

The library's own `save` brings every tensor to the CPU, turns it into bytes, and joins those: three
copies. The bytes are the same.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ._sharding import whole

_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32", torch.float64: "F64",
    torch.int64: "I64",
}  # fmt: skip
"""Of dtypes in a file's header; a file begins with the last of them, so that all are aligned."""
_ORDER = {dtype: place for place, dtype in enumerate(_NAMES)}
_ALIGNMENT = 8


def to_safetensors(
    tensors: Mapping[str, Tensor],
    dtypes: Mapping[str, torch.dtype] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return what `safetensors.torch.save` would; of sharded tensors, all processes call.

    Args:
        tensors: By name, on any device; sharded ones are gathered one at a time.
        dtypes: What some are turned into on the way.
        metadata: Of the file.

    Raises:
        ValueError: A dtype has no place in such a file.
    """
    kinds = {name: (dtypes or {}).get(name, t.dtype) for name, t in tensors.items()}
    for name, kind in kinds.items():
        if kind not in _NAMES:
            raise ValueError(f"{name} must be of a dtype that safetensors knows, got {kind}")
    order = sorted(tensors, key=lambda name: (-_ORDER[kinds[name]], name))
    header, begin = dict[str, object](), 0
    if metadata is not None:
        header["__metadata__"] = dict(metadata)
    for name in order:
        end = begin + tensors[name].numel() * kinds[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[kinds[name]], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    raw = io.BytesIO(bytes(8 + len(text) + begin))  # whose value is taken out without a copy
    raw.write(len(text).to_bytes(8, "little") + text)
    with raw.getbuffer() as view:
        place = 8 + len(text)
        for name in order:
            place = _put(view, place, whole(tensors[name].detach()), kinds[name])
    return raw.getvalue()


def _put(view: memoryview, place: int, tensor: Tensor, kind: torch.dtype) -> int:
    """Write a tensor at a place; return where it ends."""
    if tensor.numel():
        there = torch.frombuffer(view, dtype=kind, count=tensor.numel(), offset=place)
        there.view(tensor.shape).copy_(tensor)
    return place + tensor.numel() * kind.itemsize
