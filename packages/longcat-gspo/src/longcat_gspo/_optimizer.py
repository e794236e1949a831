"""Which weights decay, how the rate moves, and what a gradient must be before a step is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._config import TrainerConfig
from ._sharding import as_dtensor, clip_grads, total_norm

MakeOptimizer = Callable[[Sequence[dict[str, Any]]], torch.optim.Optimizer]
"""Takes parameter groups, each with `params`, `lr` and `weight_decay`."""


def parameter_groups(model: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    """Return what is trained: matrices, which decay, and vectors (norms, biases), which do not.

    Raises:
        ValueError: Nothing is.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("a model must have at least one parameter that requires a gradient")
    rules = ((lambda p: p.ndim >= 2, config.weight_decay), (lambda p: p.ndim < 2, 0.0))
    groups = [
        {"params": [p for p in trained if rule(p)], "lr": config.learning_rate,
        "weight_decay": decay}
        for rule, decay in rules
    ]  # fmt: skip
    return [group for group in groups if group["params"]]


def adamw(config: TrainerConfig) -> MakeOptimizer:
    """The report's optimiser."""

    def make(groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(groups), betas=config.betas, eps=config.epsilon, fused=True)

    return make


def clip_finite(named: Iterable[tuple[str, Tensor]], max_norm: float) -> float:
    """Cut gradients to a total norm, in place; return what it was.

    Raises:
        FloatingPointError: It is not finite; the weights whose gradients are to blame are named.
    """
    graded = [(name, p.grad) for name, p in named if p.grad is not None]
    grads = [grad for _, grad in graded]
    norm = total_norm(grads)
    if not math.isfinite(norm):
        bad = [name for name, grad in graded if not _is_finite(grad)]
        named_bad = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise FloatingPointError(
            f"gradients must be finite, those of {named_bad or 'another process'} are not; no step "
            "was taken"
        )
    clip_grads(grads, max_norm, norm)
    return norm


def _is_finite(grad: Tensor) -> bool:
    spread = as_dtensor(grad)
    local = grad if spread is None else spread.to_local()
    return bool(torch.isfinite(local).all())
