"""The weight versions that are live, and whether a model fits an engine."""

from __future__ import annotations

import dataclasses

import torch

from longcat_moe._config import LongcatConfig
from longcat_moe._experts import Router
from longcat_moe._mapped import map_weights
from longcat_moe._meta import on_meta, take_memory
from longcat_moe._model import LongcatForCausalLM
from longcat_moe._packed import pack

from ._cache import LatentCache
from ._graphs import StaticDecoder
from ._prefill import PrefillProcess
from ._scheduler import Work
from ._settings import EngineConfig
from ._step import Outcome, compute

_FREE = {"initializer_range", "max_position_embeddings", "bos_token_id", "eos_token_id"}
"""Fields that change nothing in a forward pass."""


class Versions:
    """Weights by version, with what decodes each in fixed shapes.

    A version is freed once it is retired and nobody uses it; who uses it is the caller's to know.
    """

    def __init__(
        self,
        config: LongcatConfig,
        settings: EngineConfig,
        cache: LatentCache,
        prefill: PrefillProcess | None,
    ) -> None:
        self.config, self.settings = config, settings
        self.models: dict[int, LongcatForCausalLM] = {}
        self.decoders: dict[int, StaticDecoder] = {}
        self._cache, self._prefill = cache, prefill
        self._retired: set[int] = set()

    def load(self, version: int, weights: bytes | memoryview) -> None:
        """Read safetensors bytes of a state dict; see `Engine.load_weights`."""
        with on_meta():
            model = LongcatForCausalLM(self.config)
        state = map_weights(weights, model.state_dict())
        take_memory(model.to(self.settings.dtype), self.settings.device)
        for module in model.modules():
            if isinstance(module, Router):  # in float32 whatever the dtype, as in `from_pretrained`
                module.float()
        model.load_state_dict(state)
        self.add(version, model)

    def add(self, version: int, model: LongcatForCausalLM) -> None:
        """Take a model as it is; see `Engine.add_model`."""
        check_model(model, self.config, self.settings)
        model = model.eval().requires_grad_(False)
        if self._prefill is not None:
            self._prefill.add_model(version, model)
        self.models[version] = pack(model) if self.settings.pack else model
        most = self.settings.num_ahead(1)
        if most:
            self.decoders[version] = StaticDecoder(
                self.models[version], self._cache, max_steps=most
            )
        self._retired.discard(version)

    def retire(self, version: int) -> None:
        """Let `free` free a version."""
        self._retired.add(version)

    def free(self, version: int) -> None:
        """Let a version go that nobody uses, if it is retired."""
        if version not in self._retired:
            return
        self.models.pop(version, None)
        self.decoders.pop(version, None)
        self._retired.discard(version)
        if self._prefill is not None:
            self._prefill.retire(version)

    def compute(self, batch: list[Work]) -> list[Outcome]:
        """Compute a step of one version."""
        version = batch[0].conversation.version
        decoder = self.decoders.get(version)
        if decoder is not None and decoder.can_run(batch):
            return decoder.run(batch)
        return compute(self.models[version], self._cache, batch, speculate=self.settings.speculate)


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
