"""Models whose weights are spread over processes (FSDP2): norms, states, and equal numbers of passes."""

from __future__ import annotations

import itertools
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


def is_sharded(model: nn.Module) -> bool:
    """Whether any of its weights is a DTensor."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def clip_sharded_grads(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Cut gradients to a total norm over all processes, in place; return what it was."""
    by_mesh: dict[Any, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh[getattr(parameter, "device_mesh", None)].append(parameter.grad)
    norms = [whole(get_total_norm(grads)) for grads in by_mesh.values()]
    total = torch.stack(norms).norm().item()
    if total > max_norm:
        for grad in itertools.chain.from_iterable(by_mesh.values()):
            grad.mul_(max_norm / (total + 1e-6))
    return total


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
) -> None:
    """Spread what was gathered over the processes; each has read the whole."""
    set_model_state_dict(model, weights, options=_WHOLE)
    if state is not None:
        set_optimizer_state_dict(model, optimizer, state, options=_WHOLE)
