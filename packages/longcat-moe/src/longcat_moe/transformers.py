"""The model as a transformers model: for `AutoModelForCausalLM`, `generate`, Trainer and PEFT.

    import longcat_moe.transformers
    longcat_moe.transformers.register()                        # once, before the first Auto class
    model = AutoModelForCausalLM.from_pretrained("checkpoint") # ours, for longcat_flash and
    ..._ngram

- The same modules and key names as `longcat_moe.LongcatForCausalLM`; checkpoints are read and
  written by the same code, with all its checks, and load in plain transformers too.
- A cache of transformers holds latents, as the engine's does. N-gram models generate without one.
- Without `register`, transformers' own classes stay as they are, and these can be used by name.
"""

# transformers declares attributes of its models that modules shadow.
# pyright: reportAttributeAccessIssue=false, reportIncompatibleVariableOverride=false
# pyright: reportArgumentType=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        Cache,
        DynamicCache,
        GenerationConfig,
        GenerationMixin,
        LongcatFlashConfig,
        PretrainedConfig,
        PreTrainedModel,
    )
    from transformers.modeling_outputs import CausalLMOutputWithPast
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "longcat_moe.transformers needs: pip install 'longcat-moe[transformers]'"
    ) from error

from ._checkpoint import add_identity_rows, save_checkpoint
from ._config import LongcatConfig
from ._config_json import KNOWN
from ._hf_base import Backbone, ids_of
from ._hf_cache import LatentView
from ._meta import on_meta
from ._model import LongcatForCausalLM as Core
from ._model import LongcatModel
from ._padding import check_positions, forward_packed, needs_packing

__all__ = [
    "LongcatHfConfig",
    "LongcatHfForCausalLM",
    "LongcatHfNgramConfig",
    "LongcatHfNgramForCausalLM",
    "register",
]


class LongcatHfConfig(LongcatFlashConfig):
    """transformers' config of this architecture, and what `LongcatConfig` knows beyond it."""

    def to_longcat(self) -> LongcatConfig:
        """Return the config of `longcat_moe`.

        Raises:
            ValueError: A value asks for what is not implemented.
        """
        keys = {*KNOWN, *(field.name for field in dataclasses.fields(LongcatConfig))}
        values = {key: value for key, value in self.to_dict().items() if key in keys}
        values["model_type"] = self.model_type
        values.pop("num_hidden_layers", None)
        return LongcatConfig.from_dict(values)

    @classmethod
    def from_longcat(cls, config: LongcatConfig, **more: Any) -> LongcatHfConfig:
        """Return the transformers config of a `longcat_moe` config."""
        values = {**config.to_dict(), **more}
        for key in ("num_hidden_layers", "model_type", "rope_theta"):
            values.pop(key, None)
        kind = LongcatHfNgramConfig if config.has_ngrams else LongcatHfConfig
        return kind(**values)


class LongcatHfNgramConfig(LongcatHfConfig):
    """Of models with n-gram embeddings."""

    model_type = "longcat_flash_ngram"


def register() -> None:
    """Let `AutoConfig` and `AutoModelForCausalLM` use these classes for LongCat's model types."""
    for config, model in (
        (LongcatHfConfig, LongcatHfForCausalLM),
        (LongcatHfNgramConfig, LongcatHfNgramForCausalLM),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)


class LongcatHfForCausalLM(PreTrainedModel, GenerationMixin):
    """A LongCat-Flash language model with transformers' interface.

    Example:
        >>> from longcat_moe import get_preset
        >>> config = LongcatHfConfig.from_longcat(get_preset("tiny"))
        >>> model = LongcatHfForCausalLM(config)
        >>> model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False).shape
        torch.Size([1, 5])
    """

    config: LongcatHfConfig
    config_class = LongcatHfConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]  # noqa: RUF012 - as the class it overrides
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self._adopt(Core(self.config.to_longcat()))
        self.post_init()

    def _adopt(self, core: Core) -> None:
        self.model: LongcatModel = core.model
        self.lm_head = core.lm_head
        self.vocab_size = core.config.vocab_size

    def _init_weights(self, module: nn.Module) -> None:
        """Leave what the modules drew themselves."""

    # -- what transformers asks of its models ------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        if self.model.ngram_embeddings is not None:
            raise ValueError("embeddings must stay where n-grams of tokens are embedded")
        self.model.embed_tokens = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """The output matrix."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output matrix."""
        self.lm_head = cast(nn.Linear, new_embeddings)

    @property
    def base_model(self) -> Backbone:
        """The model without its output matrix, as TRL's losses call it."""
        return Backbone(self)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Keep no activations inside layers; compute them again in the backward pass."""
        self.model.is_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations."""
        self.model.is_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are computed again."""
        return self.model.is_checkpointing

    # -- computing ---------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits, and the loss where there are labels.

        Args:
            input_ids: (B, T); else `inputs_embeds`.
            attention_mask: (B, T), with a cache (B, tokens so far); padding on the left or the
                right.
            position_ids: (B, T).
            past_key_values: Latents of earlier tokens.
            inputs_embeds: (B, T, D).
            labels: (B, T), -100 where nothing is asked for; shifted here.
            use_cache: Whether to return a cache; the config's habit when absent, never while
                training.
            output_hidden_states: Whether to return the states before each layer, and the last,
                normed.
            logits_to_keep: How many of the last places, or which, have logits; 0 for all.
            return_dict: False for a tuple.
            cache: What transformers 5.24 and later call `past_key_values`.
            kwargs: `num_items_in_batch`, for the loss.

        Raises:
            ValueError: Not exactly one of `input_ids` and `inputs_embeds` is there, a cache has
                both names, or the mask has holes.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("need exactly one of input_ids and inputs_embeds")
        if past_key_values is not None and cache is not None:
            raise ValueError("need at most one of past_key_values and cache, which mean the same")
        input_ids = ids_of(input_ids, inputs_embeds)
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions is not done: attention is computed on latents")
        cache = self._cache_of(cache if past_key_values is None else past_key_values, use_cache)
        wants_states = output_hidden_states or getattr(self.config, "output_hidden_states", False)
        states: list[Tensor] | None = [] if wants_states else None
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, states)
        hidden = self.states_of(*inputs) if cache is None else self._cached(cache, *inputs)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, keep] if logits_to_keep is not None else hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        output = CausalLMOutputWithPast(loss, logits, cache)
        if states is not None:
            output.hidden_states = (*states, hidden)
        return output.to_tuple() if return_dict is False else output

    def _cache_of(self, given: Cache | None, use_cache: bool | None) -> Cache | None:
        """Return the cache to compute with: the given one, a new one, or none."""
        if self.model.ngram_embeddings is not None:
            return None
        if use_cache is None:
            use_cache = bool(getattr(self.config, "use_cache", True)) and not self.training
        if self.model.is_checkpointing and torch.is_grad_enabled():  # latents would be stored twice
            use_cache = False
        return DynamicCache(config=self.config) if use_cache and given is None else given

    def states_of(
        self,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        embeds: Tensor | None,
        states: list[Tensor] | None,
    ) -> Tensor:
        """Return the last states, normed, (B, T, D), without a cache."""
        if needs_packing(ids, mask, positions):
            return forward_packed(self.model, ids, mask, positions, embeds, states)
        return self.model(ids, mask, positions, inputs_embeds=embeds, states=states)

    def _cached(
        self,
        cache: Cache,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        embeds: Tensor | None,
        states: list[Tensor] | None,
    ) -> Tensor:
        batch, num = ids.shape
        check_positions(ids, positions)
        past = int(cache.get_seq_length())
        if positions is None:
            positions = torch.arange(past, past + num, device=ids.device)[None]
        view = LatentView(cache, self.model.config, mask, batch, num, past, ids.device)
        packed: list[Tensor] | None = None if states is None else []
        hidden = self.model(
            ids.reshape(1, -1),
            None,
            positions.expand(batch, num).reshape(1, -1),
            view,
            inputs_embeds=None if embeds is None else embeds.reshape(1, batch * num, -1),
            states=packed,
        )
        if states is not None and packed is not None:
            states += [state.view(batch, num, -1) for state in packed]
        return hidden.view(batch, num, -1)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate; without a cache where n-grams of tokens are embedded."""
        if self.model.ngram_embeddings is not None:
            kwargs["use_cache"] = False
        return super().generate(*args, **kwargs)

    # -- checkpoints -------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        config: PretrainedConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        **kwargs: Any,
    ) -> LongcatHfForCausalLM:
        """Load a checkpoint folder as `longcat_moe` does, with all its checks.

        Raises:
            ValueError: The folder does not hold this model, or `device_map` is no single device.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download  # noqa: PLC0415 - where a name is given

            revision = kwargs.get("revision")
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), revision=revision))
        if device_map == "auto":
            device_map = "cuda" if torch.cuda.is_available() else "cpu"
        if isinstance(device_map, Mapping):
            raise ValueError(
                "device_map must be one device: experts are spread by longcat_moe.parallel"
            )
        chosen = dtype if dtype is not None else torch_dtype
        core = Core.from_pretrained(
            folder, dtype=_dtype(chosen, folder), device=device_map or "cpu"
        )
        hf = LongcatHfConfig.from_longcat(core.config) if config is None else config
        with on_meta():
            model = cls(hf)
        model._adopt(core)
        with suppress(OSError):  # none is saved beside many checkpoints
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = 5 * 10**9,
        for_transformers: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write `config.json`, shards and `generation_config.json`, as `longcat_moe` does.

        Args:
            save_directory: Made if it is not there.
            is_main_process: Whether this one writes.
            state_dict: The weights, where they are not the model's own.
            max_shard_size: In bytes, or as `5GB`.
            for_transformers: See `longcat_moe.LongcatForCausalLM.save_pretrained`.
            kwargs: Of transformers, without effect here.
        """
        if not is_main_process:
            return
        config = self.config.to_longcat()
        state = dict(self.state_dict() if state_dict is None else state_dict)
        if for_transformers:
            state = add_identity_rows(state, config.zero_expert_num)
        dtype = str(self.lm_head.weight.dtype).removeprefix("torch.")
        values = {**config.to_dict(), "dtype": dtype, "pad_token_id": self.config.pad_token_id}
        folder = Path(save_directory)
        save_checkpoint(state, values, folder, max_shard_bytes=_bytes(max_shard_size))
        if self.generation_config is not None:
            self.generation_config.save_pretrained(folder)


class LongcatHfNgramForCausalLM(LongcatHfForCausalLM):
    """With n-gram embeddings."""

    config: LongcatHfNgramConfig
    config_class = LongcatHfNgramConfig


def _dtype(chosen: torch.dtype | str | None, folder: Path) -> torch.dtype:
    """Return a dtype by name; what the checkpoint says for `auto`."""
    if isinstance(chosen, torch.dtype):
        return chosen
    if chosen in (None, "auto"):
        values = PretrainedConfig.get_config_dict(str(folder))[0]
        chosen = values.get("dtype") or values.get("torch_dtype") or "float32"
    found = getattr(torch, str(chosen).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype must be one of torch's, got {chosen!r}")
    return found


def _bytes(size: int | str) -> int:
    if isinstance(size, int):
        return size
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
    text = size.strip().upper()
    for unit, factor in units.items():
        if text.endswith(unit) and text.removesuffix(unit).strip().isdecimal():
            return int(text.removesuffix(unit)) * factor
    raise ValueError(f"max_shard_size must be a number of bytes or as 5GB, got {size!r}")
