"""Models whose weights are spread over processes (FSDP2): norms, states, equal passes."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from torch.distributed.checkpoint.state_dict import StateDictOptions
    from torch.distributed.tensor import DTensor


def as_dtensor(tensor: Tensor) -> DTensor | None:
    """A tensor that is spread over processes; `None` for one that is not.

    Where there is one, its module is loaded: to load it only to ask costs two seconds.
    """
    module = sys.modules.get("torch.distributed.tensor")
    if module is None or not isinstance(tensor, module.DTensor):
        return None
    return cast("DTensor", tensor)


def is_sharded(model: nn.Module) -> bool:
    """Whether any of its weights is a DTensor."""
    return any(as_dtensor(parameter) is not None for parameter in model.parameters())


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
    spread = as_dtensor(tensor)
    return tensor if spread is None else spread.full_tensor()


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the weights, on this process's CPU; all processes must call this."""
    return {name: whole(t.detach()).cpu() for name, t in model.state_dict().items()}


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Gather the optimiser's state by names of weights."""
    from torch.distributed.checkpoint import state_dict  # late, as DTensor is

    return state_dict.get_optimizer_state_dict(model, optimizer, options=_gathered())


def _gathered(*, is_strict: bool = True) -> StateDictOptions:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True, strict=is_strict)


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
    from torch.distributed.checkpoint import state_dict

    if is_partial:
        model.load_state_dict(weights, strict=False)
    else:
        state_dict.set_model_state_dict(model, weights, options=_gathered())
    if state is not None and _has_tensors(state):
        # A weight that never had a gradient has no optimiser's state.
        some = _gathered(is_strict=False)
        state_dict.set_optimizer_state_dict(model, optimizer, state, options=some)


def _has_tensors(state: dict[str, Any]) -> bool:
    """Whether there is anything to spread; plain SGD remembers nothing."""
    return any(isinstance(value, Tensor) for of in state["state"].values() for value in of.values())
