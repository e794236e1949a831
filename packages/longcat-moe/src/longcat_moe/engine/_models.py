"""Whether a model fits an engine."""

from __future__ import annotations

import dataclasses

import torch

from longcat_moe._config import LongcatConfig
from longcat_moe._experts import Router
from longcat_moe._model import LongcatForCausalLM

from ._settings import EngineConfig

_FREE = {"initializer_range", "max_position_embeddings", "bos_token_id", "eos_token_id"}
"""Fields that change nothing in a forward pass."""


def check_model(model: LongcatForCausalLM, config: LongcatConfig, settings: EngineConfig) -> None:
    """Check that a model is of the engine's architecture, dtype and kind of device.

    Raises:
        ValueError: It is not; the message names the field or the weight.
    """
    for field in dataclasses.fields(LongcatConfig):
        ours, theirs = getattr(config, field.name), getattr(model.config, field.name)
        if field.name == "num_nextn_predict_layers" and theirs >= ours:
            continue  # a head that is not used
        if ours != theirs and field.name not in _FREE:
            raise ValueError(
                f"a model must be of the engine's architecture: {field.name} is {theirs} in the "
                f"model, {ours} in the engine"
            )
    in_float32 = {
        id(weight)
        for module in model.modules()
        if isinstance(module, Router)
        for weight in module.parameters()
    }
    kind = torch.device(settings.device).type
    for name, weight in model.named_parameters():
        if weight.dtype != settings.dtype and id(weight) not in in_float32:
            raise ValueError(
                f"a model must have the engine's dtype: {name} is {weight.dtype}, "
                f"Engine(dtype={settings.dtype})"
            )
        if weight.device.type != kind:
            raise ValueError(
                f"a model must lie where the engine does: {name} is on {weight.device}, "
                f"Engine(device={settings.device!s})"
            )
