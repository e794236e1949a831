"""Which weights decay, how the rate moves, and what a gradient must be before a step is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ._adapters import base_model
from ._config import TrainerConfig
from ._muon import MuonAndAdamW
from ._sharding import as_dtensor, clip_grads, total_norm

MakeOptimizer = Callable[[Sequence[dict[str, Any]]], torch.optim.Optimizer]
"""Takes parameter groups, each with `params`, `lr` and `weight_decay`."""


def parameter_groups(model: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    """Return what is trained: matrices, which decay, and vectors (norms, biases), which do not.

    For `muon`, the hidden layers' matrices are a group of their own, marked `is_hidden`.

    Raises:
        ValueError: Nothing is.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("a model must have at least one parameter that requires a gradient")
    hidden = _hidden(model, trained) if config.optimizer == "muon" else []
    inner = {id(p) for p in hidden}
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in inner]
    vectors = [p for p in trained if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": config.weight_decay, "is_hidden": True},
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [{**group, "lr": config.learning_rate} for group in groups if group["params"]]


def _hidden(model: nn.Module, trained: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Matrices, but for embeddings and the output's."""
    plain: Any = base_model(model)
    outer = [p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()]
    head = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
    outer += [] if head is None else list(head.parameters())
    of = {id(p) for p in outer}
    return [p for p in trained if p.ndim == 2 and id(p) not in of]


def chosen(config: TrainerConfig) -> MakeOptimizer:
    """Return what makes the optimiser that the configuration names.

    Raises:
        ValueError: The library behind it is not installed.
    """
    options: dict[str, Any] = {"betas": config.betas, "eps": config.epsilon}
    if config.optimizer == "muon":
        return lambda groups: MuonAndAdamW(groups, **options)
    if config.optimizer == "adamw":
        return lambda groups: torch.optim.AdamW(list(groups), fused=True, **options)
    try:
        from bitsandbytes.optim import (  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
            AdamW8bit,
        )
    except ImportError as error:
        raise ValueError(
            f"optimizer 'adamw_8bit' needs: pip install 'longcat-gspo[8bit]' ({error})"
        ) from error
    make: Any = AdamW8bit
    return lambda groups: make(list(groups), **options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups a learning rate; who holds it in a tensor looks into that tensor alone."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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


@contextmanager
def no_gradient_left(optimizer: torch.optim.Optimizer) -> Generator[None]:
    """Forget what a step that fails half way, by Ctrl-C too, would add to the next one."""
    try:
        yield
    except BaseException:
        optimizer.zero_grad()
        raise
