"""Adapters: a second model with PEFT's layers that shares the first one's weights.

The first stays as it is, so that versions without an adapter run beside those with one.
"""

# PEFT is only partly typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import copy
import json
import warnings
from typing import Any, cast

from torch import Tensor, nn

from longcat_dora import LongcatDoraError

_FREE = {
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "peft_version", "revision", "target_modules", "target_parameters",
    "task_type",
}  # fmt: skip
"""Settings that change nothing in a pass, or only which layers there are, which the names tell."""

_BESIDE = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter that leave the weights below it alone."""


class Adapters:
    """Of one configuration: it lies in the layers, the weights alone change with the version.

    Args:
        base: The model that they are beside; it is not changed.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._settings: dict[str, Any] = {}
        self.model: Any = None
        """With an adapter's layers, once there has been an adapter."""

    def take(self, tensors: dict[str, Tensor], written: str) -> dict[str, Tensor]:
        """Return an adapter's tensors by the names of the model's, given its config as JSON.

        Raises:
            LongcatDoraError: It is of another configuration than the first one, or of other layers;
                or it is not the same for every token.
        """
        import peft  # noqa: PLC0415 - only where adapters are sent

        options: dict[str, Any] = json.loads(written)
        config: Any = peft.PeftConfig.from_peft_type(**{**options, "inference_mode": True})
        if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
            raise LongcatDoraError(
                "an adapter must change weights, for every token alike, as LoRA does; got "
                f"{type(config).__name__} with tokens of its own"
            )
        if getattr(config, "init_lora_weights", True) in _BESIDE:
            config.init_lora_weights = True  # all of it is sent: how it began is nobody's matter
        settings = {k: v for k, v in config.to_dict().items() if k not in _FREE}
        if self.model is not None:
            _check_same(self._settings, settings)
        model = self._adapted(config) if self.model is None else self.model
        found = _fitted(model, tensors)
        self.model, self._settings = model, settings
        return found

    def _adapted(self, config: Any) -> nn.Module:
        import peft  # noqa: PLC0415 - only where adapters are sent

        own = [*self._base.parameters(), *self._base.buffers()]
        # PiSSA and its like take from the weights below what they add: those need their own.
        is_beside = getattr(config, "init_lora_weights", True) in _BESIDE
        base = copy.deepcopy(self._base, {id(t): t for t in own} if is_beside else {})
        with warnings.catch_warnings():  # that some cannot be merged was said where it is trained
            warnings.simplefilter("ignore", UserWarning)
            made = peft.get_peft_model(cast("Any", base), config)
        return made.eval().requires_grad_(False)


def _check_same(first: dict[str, Any], new: dict[str, Any]) -> None:
    for name in sorted(first.keys() | new.keys()):
        if first.get(name) != new.get(name):
            raise LongcatDoraError(
                f"all adapters of an engine must have the first one's {name}={first.get(name)}, "
                f"got {new.get(name)}"
            )


def _fitted(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an adapter's tensors in the model's precision and place, by its names."""
    own = dict(model.state_dict(keep_vars=True))
    names = _saved_names(model, list(own), with_embeddings=False)
    if tensors.keys() - names.keys():  # PEFT adds embeddings that have an adapter, or were resized
        names = _saved_names(model, list(own), with_embeddings=True)
    if names.keys() != tensors.keys():
        odd = sorted(names.keys() ^ tensors.keys())[:3]
        raise LongcatDoraError(f"the adapter must be of the same layers, they differ at {odd}")
    for name, tensor in tensors.items():
        if tensor.shape != own[names[name]].shape:
            wanted = list(own[names[name]].shape)
            raise LongcatDoraError(f"{name} must be {wanted}, got {list(tensor.shape)}")
    return {
        names[name]: t.to(own[names[name]].device, own[names[name]].dtype)
        for name, t in tensors.items()
    }


def _saved_names(model: nn.Module, own: list[str], *, with_embeddings: bool) -> dict[str, str]:
    """Map the names under which PEFT saves an adapter to those of the model."""
    import peft  # noqa: PLC0415 - only where adapters are sent

    # Only PEFT knows its renamings. It moves the values as they are: names in place of tensors.
    state: Any = {name: name for name in own}
    found: Any = peft.get_peft_model_state_dict(
        model, state_dict=state, save_embedding_layers=with_embeddings
    )
    return dict(found)
