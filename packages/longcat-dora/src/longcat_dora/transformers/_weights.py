"""Weights from a trainer's bytes.

Views of where they lie, by the names of the model's parameters.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from longcat_dora import LongcatDoraError

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8,
          "BOOL": torch.bool}  # fmt: skip


def read_tensors(data: bytes | memoryview) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of safetensors bytes without copying them, and the metadata.

    They must not be written to, and hold `data` alive.

    Raises:
        LongcatDoraError: It is something else.
    """
    view = memoryview(data).cast("B")
    try:
        size = int.from_bytes(view[:8], "little")
        head: dict[str, Any] = json.loads(bytes(view[8 : 8 + size]))
    except ValueError as error:
        raise LongcatDoraError(f"weights must be safetensors bytes: {error}") from error
    about: dict[str, str] = head.pop("__metadata__", {})
    found: dict[str, Tensor] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it cannot be written to is meant
        for name, entry in head.items():
            begin, end = entry["data_offsets"]
            part = view[8 + size + begin : 8 + size + end]
            dtype = _TYPES[entry["dtype"]]
            flat = torch.frombuffer(part, dtype=dtype) if len(part) else torch.empty(0, dtype=dtype)
            found[name] = flat.reshape(entry["shape"])
    return found, about


def fitted(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in the model's precision and place, checked against its names.

    Of names that are tied in the model, the first one stands for all.

    Raises:
        LongcatDoraError: Names or shapes are not the model's, or some are missing.
    """
    own = dict(model.state_dict(keep_vars=True))
    unknown = sorted(tensors.keys() - own.keys())
    given = {id(own[name]) for name in tensors if name in own}
    missing = sorted(name for name, tensor in own.items() if id(tensor) not in given)
    if unknown or missing:
        raise LongcatDoraError(
            f"weights must be the model's: unknown {unknown[:3]}, missing {missing[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise LongcatDoraError(
                f"{name} must be {list(own[name].shape)}, got {list(tensor.shape)}"
            )
    first = {id(own[name]): name for name in reversed(list(tensors))}
    return {
        name: tensors[name].to(own[name].device, own[name].dtype)
        for name in tensors
        if first[id(own[name])] == name
    }
