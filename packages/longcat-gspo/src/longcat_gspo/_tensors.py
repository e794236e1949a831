"""Weights on their way out, each once, in their own precision; and held in float32 to train.

A weight that has several names (tied embeddings) goes under the first of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._sharding import is_sharded

_LOW = (torch.bfloat16, torch.float16)


def hold_in_float32(model: nn.Module) -> dict[str, torch.dtype]:
    """Turn low-precision weights that are trained into float32; return what they were, by name."""
    low = {
        name: p.dtype for name, p in model.named_parameters() if p.requires_grad and p.dtype in _LOW
    }
    if low and is_sharded(model):
        warnings.warn(
            f"{len(low)} sharded weights are trained in low precision: steps below their rounding "
            "are lost. Shard float32 weights, with "
            "MixedPrecisionPolicy(param_dtype=torch.bfloat16)",
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


def num_words(model: nn.Module) -> int | None:
    """Return how many tokens a model knows, if it says so."""
    embeddings = getattr(model, "get_input_embeddings", None)
    try:
        found = None if embeddings is None else getattr(embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):  # of transformers, where a model has none
        found = None
    found = getattr(getattr(model, "config", None), "vocab_size", None) if found is None else found
    return found if isinstance(found, int) else None


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Set evaluation mode for a while, so that two passes over the same are the same."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights where they lie, each under its first name."""
    names = _first_names(model)
    return {name: t for name, t in model.state_dict().items() if name in names}


def _first_names(model: nn.Module) -> set[str]:
    """Of each parameter and buffer of the state, the first name."""
    first: dict[int | str, str] = {}
    of = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    of |= {name: id(tensor) for name, tensor in model.named_buffers(remove_duplicate=False)}
    for name in model.state_dict():
        first.setdefault(of.get(name, name), name)
    return set(first.values())
