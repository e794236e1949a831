"""Models whose weights are spread over processes (FSDP2): norms, states, equal passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SOME = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
"""A weight that never had a gradient has no optimiser's state."""


def is_sharded(model: nn.Module) -> bool:
    """Whether any of its weights is a DTensor."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def total_norm(grads: Iterable[Tensor]) -> float:
    """The norm of all gradients, over all processes if they are sharded."""
    by_mesh: dict[Any, list[Tensor]] = defaultdict(list)
    for grad in grads:
        by_mesh[getattr(grad, "device_mesh", None)].append(grad)
    norms = [whole(get_total_norm(held)).float().cpu() for held in by_mesh.values()]
    return torch.stack(norms).norm().item() if norms else 0.0


def clip_grads(grads: Iterable[Tensor], max_norm: float, norm: float) -> None:
    """Cut gradients of this total norm down to `max_norm`, in place."""
    if norm > max_norm:
        for grad in grads:
            grad.mul_(max_norm / (norm + 1e-6))


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the weights, on this process's CPU; all processes must call this."""
    return {name: whole(t.detach()).cpu() for name, t in model.state_dict().items()}


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Gather the optimiser's state by names of weights."""
    return get_optimizer_state_dict(model, optimizer, options=_WHOLE)


def load_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weights: dict[str, Any],
    state: dict[str, Any] | None,
    *,
    is_partial: bool = False,
) -> None:
    """Spread what was gathered over the processes; each has read the whole.

    `is_partial`: some of the model's weights alone, the others stay.
    """
    if is_partial:
        model.load_state_dict(weights, strict=False)
    else:
        set_model_state_dict(model, weights, options=_WHOLE)
    if state is not None:
        set_optimizer_state_dict(model, optimizer, state, options=_SOME)
