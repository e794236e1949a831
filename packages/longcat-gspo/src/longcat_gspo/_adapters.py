"""Models with adapters (PEFT): what is trained, what is saved, what engines are sent.

PEFT is never imported here but through a model that it has wrapped.
"""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from ._sharding import as_dtensor


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


def refuse_unsendable(model: nn.Module, *, only_adapter: bool) -> None:
    """Find adapters with which engines would be sent other weights than are trained, or none.

    Raises:
        ValueError: It writes tokens before the prompt; PEFT's layers are there without its wrapper;
            what is sent is the adapter alone, and more is trained; or all is sent, and copies of
            tied layers are trained apart, or it has biases that cannot be merged.
    """
    refuse_prompts(model)
    is_adapted = any(hasattr(module, "adapter_layer_names") for module in model.modules())
    if is_adapted and not any(map(has_adapter, model.modules())):
        raise ValueError(
            "an adapter must be added by peft.get_peft_model(model, config), or loaded by "
            f"peft.PeftModel.from_pretrained, got one inside {type(model).__name__}"
        )
    if only_adapter:
        refuse_beside(model)
    elif has_adapter(model):
        _refuse_unmergeable(model)


def _refuse_unmergeable(model: nn.Module) -> None:
    if _is_untied(model):
        raise ValueError(
            "tied embeddings must be trained as one weight, got a copy of one in modules_to_save: "
            "take LoraConfig(ensure_weight_tying=True), or send='adapter'"
        )
    for name, module in model.named_modules():
        layer = cast("Any", module)
        has_bias = any(dict(getattr(layer, "lora_bias", None) or {}).values())
        if has_bias and getattr(layer.base_layer, "bias", None) is None:
            raise ValueError(
                f"an adapter with biases must be on layers that have one, to be merged, got {name} "
                "without: take LoraConfig(lora_bias=False)"
            )


def _is_untied(model: nn.Module) -> bool:
    """Whether of two layers that shared a weight one is a copy with its own."""
    ends = _ends(base_model(model))
    if not any(hasattr(end, "modules_to_save") for end in ends):
        return False
    first = [getattr(end, "original_module", end) for end in ends]
    before, now = ([_weight(end) for end in of] for of in (first, ends))
    return before[0] is before[1] and before[0] is not None and now[0] is not now[1]


def _ends(plain: nn.Module) -> tuple[Any, Any]:
    """The layers at input and output, where a model tells them."""
    try:
        model = cast("Any", plain)
        return model.get_input_embeddings(), model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # of transformers, where a model has none
        return None, None


def _weight(layer: Any) -> Any:
    """A layer's own weight, below an adapter's."""
    return getattr(getattr(layer, "base_layer", layer), "weight", None)


def refuse_beside(model: nn.Module) -> None:
    """Find weights that are trained and have no place in an adapter's file.

    Raises:
        ValueError: There are some.
    """
    beside = _beside(model)
    if not beside:
        return
    state, _ = _state_and_config(model)  # with biases, where the adapter's config says so
    held = _places(state.values())
    lost = [name for name, tensor in beside.items() if not _places([tensor]) & held]
    if lost:
        raise ValueError(
            f"an adapter alone must hold all that is trained, got {lost[0]} beside it: name its "
            "layer in modules_to_save, or send and export the merged model"
        )


def is_undone_when_off(model: nn.Module) -> bool:
    """Whether all that is trained is an adapter, so that without it the model stays as it is."""
    return has_adapter(model) and not _beside(model)


def _beside(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained and still there when the adapter is switched off: biases, norms."""
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "adapter_layer_names")]
    parts = [getattr(m, name, None) for m in layers for name in m.adapter_layer_names]
    own = {id(p) for part in parts if isinstance(part, nn.Module) for p in part.parameters()}
    for layer in layers:  # of trained tokens, the whole embedding lies within the adapter's part
        below = dict(layer.named_children()).get("base_layer")
        own -= set[int]() if below is None else {id(p) for p in below.parameters()}
    named = model.named_parameters()
    return {name: p for name, p in named if p.requires_grad and id(p) not in own}


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy a model as it is now, without its adapter."""
    made = copy.deepcopy(model).requires_grad_(False)
    if has_adapter(made):
        with warnings.catch_warnings():  # that trained biases stay: here they are those of now
            warnings.simplefilter("ignore", UserWarning)
            cast("Any", made).base_model.disable_adapter_layers()
    return made


def share_memory(some: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Whether any of some lies where one of the others does, also as another Parameter."""
    return bool(_places(some) & _places(others))


def _places(tensors: Iterable[Tensor]) -> set[int]:
    parts = [(t, as_dtensor(t)) for t in tensors]
    local = [t if spread is None else spread.to_local() for t, spread in parts]
    return {t.data_ptr() for t in local} - {0}  # of what is empty, or nowhere yet


def merged(model: nn.Module) -> nn.Module:
    """Return the plain model with its adapter added to the weights; the given one stays.

    Raises:
        ValueError: It is on one of two layers that share a weight, which then would change both.
    """
    if not has_adapter(model):
        return model
    ends = _ends(base_model(model))
    first, last = map(_weight, ends)
    if any(hasattr(end, "base_layer") for end in ends) and first is not None and first is last:
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
        ValueError: The model has none, or weights beside it are trained.
    """
    if not has_adapter(model):
        raise ValueError("an adapter can be sent or saved of a PEFT model alone; this is none")
    refuse_beside(model)
    return _state_and_config(model)


def _state_and_config(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
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
