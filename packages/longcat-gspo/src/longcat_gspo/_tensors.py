"""Weights on their way out: in their own precision, each once, and where they are trained in float32.

- A weight that has several names (tied embeddings) goes under the first of them.
- Tensors that share memory in other ways are copied, so that each can be written alone.
"""

from __future__ import annotations

import warnings
from collections import Counter

import torch
from torch import Tensor, nn

from ._sharding import is_sharded, whole

_LOW = (torch.bfloat16, torch.float16)


def hold_in_float32(model: nn.Module) -> dict[str, torch.dtype]:
    """Turn low-precision weights that are trained into float32; return what they were, by name."""
    low = {
        name: p.dtype for name, p in model.named_parameters() if p.requires_grad and p.dtype in _LOW
    }
    if low and is_sharded(model):
        warnings.warn(
            f"{len(low)} sharded weights are trained in low precision: steps below their rounding "
            "are lost. Shard float32 weights, with MixedPrecisionPolicy(param_dtype=torch.bfloat16)",
            stacklevel=3,
        )
        return {}
    for name, parameter in model.named_parameters():
        if name in low:
            parameter.data = parameter.data.float()
    return low


def is_low_precision(model: nn.Module) -> bool:
    """Whether any weight is of fewer than 32 bits."""
    return any(parameter.dtype in _LOW for parameter in model.parameters())


def plain_state(model: nn.Module, dtypes: dict[str, torch.dtype]) -> dict[str, Tensor]:
    """Gather the weights on the CPU, each once; all processes must call this.

    Args:
        model: Any.
        dtypes: What some are to be turned into, by name.
    """
    names = _first_names(model)
    state = {
        name: whole(t.detach()).to("cpu", dtypes.get(name, t.dtype))
        for name, t in model.state_dict().items()
        if name in names
    }
    return unshared(state)


def unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy what lies in memory with others, or not in one piece."""
    users = Counter(_memory(tensor) for tensor in state.values())
    return {
        name: tensor.clone(memory_format=torch.contiguous_format)
        if users[_memory(tensor)] > 1
        else tensor.contiguous()
        for name, tensor in state.items()
    }


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _first_names(model: nn.Module) -> set[str]:
    """Of each parameter and buffer of the state, the first name."""
    first: dict[int | str, str] = {}
    of = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    of |= {name: id(tensor) for name, tensor in model.named_buffers(remove_duplicate=False)}
    for name in model.state_dict():
        first.setdefault(of.get(name, name), name)
    return set(first.values())
