"""Merge state dicts in memory; the same arithmetic, tile by tile, as for folders.

Torch is imported when a state dict is merged: planning and merging folders does without.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checkpoint import Checkpoint
from ._config import MergeConfig
from ._engine import TILE, merge_task
from ._headers import Entry
from ._numbers import Array
from ._plan import refuse_unequal, tasks_of

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Torch's name of each safetensors dtype."""


def merge(
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    *,
    config: MergeConfig | None = None,
) -> dict[str, Tensor]:
    """Merge state dicts: exactly the base's names, shapes and dtypes, or an error.

    The result's tensors share no memory with the inputs. FP8 weights are merged by value if their
    scales lie beside them as `<name>_scale_inv` or `<name>_scale`.

    Raises:
        ValueError: The state dicts do not fit together, or a value is not finite; the message
            names the tensor.

    Examples:
        >>> import torch
        >>> expert = {"w": torch.tensor([3.0, 4.0])}
        >>> merge({"w": torch.zeros(2)}, [expert], config=MergeConfig(drop=0.0))["w"]
        tensor([3., 4.])
    """
    config = config or MergeConfig()
    if not experts:
        raise ValueError("need at least one expert, got none")
    start = Checkpoint.in_memory("base", _entries(base, "base"))
    labels = [f"expert {number}" for number in range(len(experts))]
    others = [
        Checkpoint.in_memory(label, _entries(expert, label))
        for label, expert in zip(labels, experts, strict=True)
    ]
    tasks, _ = tasks_of(start, others, labels, config)
    refuse_unequal(tasks, labels)
    torch = _torch()
    merged: dict[str, Tensor] = {}
    for task in tasks:
        size = int(np.prod(task.match.shape))
        values = torch.empty(size, dtype=getattr(torch, _DTYPES[task.dtype]))
        raw = values.view(torch.uint8).numpy()
        scale_dtype, scale_shape = task.scales or ("U8", (0,))
        scales = torch.empty(int(np.prod(scale_shape)), dtype=getattr(torch, _DTYPES[scale_dtype]))
        raw_scales = scales.view(torch.uint8).numpy()

        def put(is_scales: bool, begin: int, part: Array, raw=raw, raw_scales=raw_scales) -> None:
            target = raw_scales if is_scales else raw
            target[begin : begin + len(part)] = part

        merge_task(task, config, TILE, put)
        merged[task.name] = values.reshape(task.match.shape)
        if task.scales and task.match.base.scales:
            merged[task.match.base.scales.name] = scales.reshape(scale_shape)
    return {name: merged.pop(name) for name in base if name in merged} | merged


def merge_tensor(
    base: Tensor, experts: Sequence[Tensor], *, config: MergeConfig, name: str = ""
) -> Tensor:
    """Merge one tensor; the result has the base's shape and dtype.

    Tensors that are not floating point must be equal everywhere, and are returned as they are.

    Raises:
        ValueError: Shapes differ, or the number of weights is not that of the experts.
    """
    return merge({name: base}, [{name: expert} for expert in experts], config=config)[name]


def _entries(tensors: Mapping[str, Tensor], label: str) -> dict[str, Entry]:
    torch = _torch()
    names = {getattr(torch, name): dtype for dtype, name in _DTYPES.items()}
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            raise ValueError(f"{label}: {name} has dtype {tensor.dtype}, which cannot be merged")
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found[name] = Entry(
            name, names[tensor.dtype], tuple(tensor.shape), Path(label), 0, memory=raw
        )
    return found


def _torch() -> Any:
    return importlib.import_module("torch")
