"""Models with adapters (PEFT): what is trained, what is saved, what engines are sent.

PEFT is never imported here but through a model that it has wrapped.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn


def has_adapter(model: nn.Module) -> bool:
    """Whether PEFT has wrapped it."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_model(model: nn.Module) -> nn.Module:
    """The causal LM itself, an adapter's layers within it."""
    return cast("Any", model).get_base_model() if has_adapter(model) else model


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Let a model be what it was before it was adapted."""
    with cast("Any", model).disable_adapter():
        yield


def refuse_prompts(model: nn.Module) -> None:
    """Find adapters whose own tokens stand before the model's: every position would be another.

    Raises:
        ValueError: It is such a one.
    """
    config: Any = cast("Any", model).active_peft_config if has_adapter(model) else None
    if getattr(config, "is_prompt_learning", False):
        raise ValueError(
            "an adapter must change weights, as LoRA does; tokens before the prompt, of "
            f"{type(config).__name__}, are not supported"
        )


def merged(model: nn.Module) -> nn.Module:
    """Return the plain model with its adapter added to the weights; the given one stays.

    Raises:
        ValueError: It is on one of two layers that share a weight, which then would change both.
    """
    if not has_adapter(model):
        return model
    plain: Any = base_model(model)
    ends = plain.get_input_embeddings(), plain.get_output_embeddings()
    weights = [getattr(getattr(end, "base_layer", end), "weight", None) for end in ends]
    adapted = [hasattr(end, "base_layer") for end in ends]
    if any(adapted) and weights[0] is not None and weights[0] is weights[1]:
        raise ValueError(
            "an adapter on embeddings that are also the output matrix cannot be merged: it is of "
            "one, the weight of both. Take send='adapter' (export: only_adapter=True), or leave "
            "them out of target_modules"
        )
    with torch.no_grad():
        return cast("Any", copy.deepcopy(model)).merge_and_unload()


def adapter_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return an adapter's tensors by PEFT's names, and its config as safetensors metadata.

    Raises:
        ValueError: The model has none.
    """
    if not has_adapter(model):
        raise ValueError("an adapter can be sent or saved of a PEFT model alone; this is none")
    from peft import get_peft_model_state_dict  # noqa: PLC0415 - it has wrapped the model

    plain = cast("Any", model)
    config = plain.peft_config[plain.active_adapter].to_dict()
    state = get_peft_model_state_dict(plain, adapter_name=plain.active_adapter)
    return state, {"peft_config": json.dumps(config, default=_plain)}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def enable_checkpointing_through(model: nn.Module) -> None:
    """With frozen embeddings, checkpointed layers need an input that asks for a gradient."""
    plain = cast("Any", base_model(model))
    # The second is its name in older transformers; newer ones warn of it.
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    is_on = next((getattr(plain, name) for name in names if hasattr(plain, name)), False)
    if has_adapter(model) and is_on:
        plain.enable_input_require_grads()
