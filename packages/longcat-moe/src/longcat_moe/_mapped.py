"""Weights from safetensors bytes in memory, read where they lie."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What weights may be stored as; FP8 only with its scales."""


def map_safetensors(data: bytes | memoryview) -> dict[str, Tensor]:
    """Read safetensors bytes without copying them: the tensors lie where the bytes do.

    They must not be written to. (The library's own reader copies, and takes `bytes` alone.)

    Raises:
        ValueError: It is not safetensors, or a tensor does not lie within the bytes.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        if not 0 < length <= len(data) - 8:
            raise ValueError(f"a header of {length} bytes does not fit into {len(data)}")
        header = json.loads(bytes(data[8 : 8 + length]))
        if not isinstance(header, dict):
            raise ValueError(f"the header must be an object, got {type(header).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"weights must be safetensors bytes: {error}") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return {
            name: _map(data, name, entry, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        }


def _map(data: bytes | memoryview, name: str, entry: Any, start: int) -> Tensor:
    try:
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], list(entry["shape"])
        if not all(type(number) is int and number < 1 << 63 for number in (begin, end, *shape)):
            raise ValueError(f"sizes and offsets must be whole numbers, got {str(entry)[:200]}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"weights must be safetensors bytes: {name}: {error!r}") from error
    count = math.prod(shape)
    is_inside = 0 <= begin <= end <= len(data) - start and min(shape, default=0) >= 0
    if not is_inside or end - begin != count * dtype.itemsize:
        raise ValueError(
            f"weights must be safetensors bytes: {name} of shape {shape} and {dtype} does not lie "
            f"in bytes {begin} to {end} of {len(data) - start}"
        )
    if not count:
        return torch.empty(shape, dtype=dtype)
    if start % dtype.itemsize or begin % dtype.itemsize:  # aligned by most writers, not by all
        copied = bytearray(data[start + begin : start + end])
        return torch.frombuffer(copied, dtype=dtype).view(shape)
    return torch.frombuffer(data, dtype=dtype, offset=start + begin, count=count).view(shape)


def map_weights(data: bytes | memoryview, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights of a model, which must be all there, alone, and of the right shapes.

    Raises:
        ValueError: They are not; the message names the first few.
    """
    state = map_safetensors(data)
    wrong = [f"{name} is missing" for name in like if name not in state]
    wrong += [f"{name} is not the model's" for name in state if name not in like]
    for name, tensor in state.items():
        if name in like and tensor.shape != like[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(like[name].shape)}")
        elif name in like and tensor.dtype not in WEIGHT_DTYPES:
            wrong.append(f"{name} is {tensor.dtype}, no weight")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"weights must be the model's: {'; '.join(wrong[:3])}{more}")
    return state
