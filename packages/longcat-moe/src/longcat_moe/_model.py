"""The LongCat-Flash decoder: two attentions, two dense FFNs and one shortcut MoE per layer.

The MoE reads the state after the first attention and joins at the very end of the layer; dense
compute in between is what hides its communication on many devices (report 2.2, "ScMoE").

    x ── attn0 ──┬── ffn0 ── attn1 ── ffn1 ──(+)── out
                 └────────── MoE ─────────────┘

Dimension key: B sequences, T tokens, D model width, W vocabulary.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ._attention import CacheView, LatentAttention
from ._checkpoint import add_identity_rows, save_checkpoint
from ._config import LongcatConfig
from ._experts import Experts, MoE, Router
from ._layers import DenseFFN, RMSNorm
from ._meta import on_meta, take_memory
from ._mtp import PredictionHead
from ._ngram import NgramEmbedding, collides
from ._norms import Wiring, has_final_norm, has_second_norm, scale_at_first
from ._padding import forward_packed, needs_packing
from ._rotary import rotary_tables
from ._shards import Progress, Shards, check_layers, load_state, shapes_on_disk


@dataclass(frozen=True, slots=True)
class CausalLMOutput:
    """What a forward pass returns, named as in transformers."""

    logits: Tensor
    """(B, T, W), or (N, W) where only some were asked for"""


torch.export.register_dataclass(CausalLMOutput)  # so that a model can be exported


class DecoderLayer(nn.Module):
    """One shortcut-connected layer, exactly as in report section 2.2."""

    def __init__(self, config: LongcatConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.mlp = MoE(config)
        self.self_attn = nn.ModuleList(LatentAttention(config, 2 * layer + i) for i in (0, 1))
        self.mlps = nn.ModuleList(DenseFFN(width, config.ffn_hidden_size) for _ in (0, 1))
        self.input_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in (0, 1))
        self.post_attention_layernorm = nn.ModuleList(
            RMSNorm(width, eps) if has_second_norm(config) else nn.Identity() for _ in (0, 1)
        )
        self.wiring = nn.ModuleList(Wiring(config, 2 * layer + i) for i in (0, 1))

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: CacheView | None,
        real: Tensor | None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Run the layer; `real` (flat indices of unpadded tokens) spares the MoE the padding."""
        x, shortcut = x_BTD, None
        for i in (0, 1):
            wiring = cast(Wiring, self.wiring[i])
            norm = self.post_attention_layernorm[i]
            y = wiring.attend(
                x,
                self.input_layernorm[i],
                lambda h, i=i: self.self_attn[i](h, rotary, cache, lengths),
            )
            h = wiring.read(y, norm)
            said = self.mlps[i](h)
            if shortcut is None:
                shortcut = self._experts(h, real)
            else:
                said = said + shortcut
            x = wiring.join(x, y, said, norm)
        return x

    def _experts(self, h_BTD: Tensor, real: Tensor | None) -> Tensor:
        flat_TD = h_BTD.flatten(0, 1)
        if real is None:
            return self.mlp(flat_TD).view_as(h_BTD)
        out = torch.zeros_like(flat_TD).index_copy(0, real, self.mlp(flat_TD[real]))
        return out.view_as(h_BTD)


class LongcatModel(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.ngram_embeddings = NgramEmbedding(config) if config.has_ngrams else None
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_layers))
        has_norm = has_final_norm(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if has_norm else nn.Identity()
        self.mtp = PredictionHead(config) if config.num_nextn_predict_layers else None
        self.is_checkpointing = False
        """Compute each layer a second time in the backward pass instead of keeping its
        activations."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: CacheView | None = None,
        before_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        inputs_embeds: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the normed last state, (B, T, D); see `last_state`."""
        return self.norm(
            self.last_state(
                input_ids,
                attention_mask,
                position_ids,
                cache,
                before_ids,
                lengths,
                inputs_embeds,
                states,
            )
        )

    def last_state(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: CacheView | None = None,
        before_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        inputs_embeds: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the last state before the final norm, (B, T, D): what `hidden_z_loss` reads.

        With `inputs_embeds` (B, T, D) they stand for the tokens' embeddings. What each layer is
        given is noted in `states`.
        """
        if lengths is not None:
            _check_lengths(input_ids, lengths)
        if position_ids is None:
            position_ids = _positions(input_ids, lengths)
        rotary = rotary_tables(position_ids, self.config)
        real = None if attention_mask is None else attention_mask.flatten().nonzero().flatten()
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if self.ngram_embeddings is not None:
            if inputs_embeds is not None:
                raise ValueError(
                    "inputs_embeds must be absent where n-grams of tokens are embedded"
                )
            assert cache is None or before_ids is not None, "packed tokens need before_ids"
            if lengths is not None and before_ids is None:
                before_ids = self.ngram_embeddings.before_packed(input_ids, lengths)
            x = self.ngram_embeddings(x, input_ids, before_ids)
        for layer in self.layers:
            if states is not None:
                states.append(x)
            if self.is_checkpointing and torch.is_grad_enabled():
                router = cast(DecoderLayer, layer).mlp.router
                x = checkpoint(
                    layer, x, rotary, cache, real, lengths, use_reentrant=False,
                    context_fn=lambda router=router: (nullcontext(), _again(router)),
                )  # fmt: skip
            else:
                x = layer(x, rotary, cache, real, lengths)
        return x


class LongcatForCausalLM(nn.Module):
    """A LongCat-Flash language model with the released key names.

    Example:
        >>> config = LongcatConfig(vocab_size=64, hidden_size=32, num_layers=1,
        ...     num_attention_heads=2, q_lora_rank=16, kv_lora_rank=8, qk_nope_head_dim=8,
        ...     qk_rope_head_dim=8, v_head_dim=8, ffn_hidden_size=32, expert_ffn_hidden_size=16,
        ...     n_routed_experts=4, zero_expert_num=2, moe_topk=2)
        >>> LongcatForCausalLM(config)(torch.tensor([[1, 5, 9]])).logits.shape
        torch.Size([1, 3, 64])
    """

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LongcatModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if self.lm_head.weight.device.type != "meta":
            self.init_weights()

    @property
    def base_model(self) -> LongcatModel:
        """Everything before the output matrix, under transformers' name."""
        return self.model

    def get_output_embeddings(self) -> nn.Linear:
        """The output matrix, under transformers' name."""
        return self.lm_head

    def init_weights(self) -> None:
        """Draw every matrix from a normal of `initializer_range`; norms 1, biases 0."""
        if collides(self.config):
            warnings.warn(
                f"ngram_vocab_size_ratio={self.config.ngram_vocab_size_ratio:g} is close to a "
                "whole number or a half: many 2-grams will share a row. Choose one well "
                "between, as 78.3",
                stacklevel=3,
            )
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, Experts):
                nn.init.normal_(module.gate_up_proj, std=std)
                nn.init.normal_(module.down_proj, std=std)
        scale_at_first(self.model.layers, self.config)
        if self.model.mtp is not None:
            with torch.no_grad():
                self.model.mtp.embed_tokens.weight.copy_(self.model.embed_tokens.weight)

    def gradient_checkpointing_enable(self) -> None:
        """Keep no activations inside layers; compute them again in the backward pass."""
        self.model.is_checkpointing = True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: CacheView | None = None,
        logits_mask: Tensor | None = None,
        before_ids: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> CausalLMOutput:
        """Return logits (B, T, W), or (N, W) of the N tokens where `logits_mask` is true.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 for real tokens. Padding may stand on the right, where the
                causal mask keeps it from being seen and the experts never compute it, or on the
                left, where all texts are packed.
            position_ids: (B, T); counted from 0 when absent. Where they do not go on by one, and
                there is no mask, another text begins, as in transformers.
            cache: Latents of earlier tokens, see `CacheView`; new tokens are packed, B = 1.
            logits_mask: (B, T), true where a prediction is wanted.
            before_ids: (B, T, N - 1) for n-gram embeddings with a cache: see `neighbours`. Without
                a cache they are computed from `input_ids`.
            lengths: Of packed sequences that fill (1, T) without padding; each attends to itself.

        Raises:
            ValueError: The mask has another shape or holes, or `lengths` do not fill `input_ids`.
        """
        if (
            cache is None
            and lengths is None
            and needs_packing(input_ids, attention_mask, position_ids)
        ):
            hidden = forward_packed(self.model, input_ids, attention_mask, position_ids)
        else:
            hidden = self.model(input_ids, attention_mask, position_ids, cache, before_ids, lengths)
        return CausalLMOutput(self.lm_head(hidden if logits_mask is None else hidden[logits_mask]))

    def predict_next(
        self,
        hidden_BTD: Tensor,
        next_ids_BT: Tensor,
        position_ids: Tensor | None = None,
        cache: CacheView | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the states (B, T, D) from which the head predicts the token after the next.

        Args:
            hidden_BTD: What `model` returned for tokens 0 to T - 1.
            next_ids_BT: Tokens 1 to T.
            position_ids: (B, T); counted from 0 when absent.
            cache: See `CacheView`.
            lengths: Of packed sequences.

        Raises:
            ValueError: The config has no head (`num_nextn_predict_layers=0`).
        """
        if self.model.mtp is None:
            raise ValueError("predict_next needs a config with num_nextn_predict_layers=1, got 0")
        if position_ids is None:
            position_ids = _positions(next_ids_BT, lengths)
        rotary = rotary_tables(position_ids, self.config)
        return self.model.mtp(hidden_BTD, next_ids_BT, rotary, cache, lengths)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> LongcatForCausalLM:
        """Load a checkpoint folder (`config.json`, `*.safetensors`), ours or anyone's.

        Tensors are read one by one into a model that is there already, on its device and in its
        dtype; the router stays in float32. A prediction head is kept where the files hold one.

        Args:
            folder: With `config.json` and one or several shards.
            dtype: Of the weights in memory.
            device: Where they live.
            progress: Called with bytes done and bytes in all, after each tensor.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: The config is not understood, or the files do not hold this model and
                nothing else; the message names the keys. No memory was taken.
        """
        config, shards = LongcatConfig.from_pretrained(folder), Shards(Path(folder))
        if "model.mtp.norm.weight" in shards:
            config = dataclasses.replace(config, num_nextn_predict_layers=1)
        check_layers(shards, config)
        with on_meta():
            model = cls(config).to(dtype)
        for module in model.modules():
            if isinstance(module, Router):
                module.float()
        shards.check(shapes_on_disk(model.state_dict(), config), config)
        take_memory(model, device)
        for module in model.modules():  # buffers that no checkpoint holds start at zero
            if isinstance(module, Router):
                module.counts.zero_()
        load_state(model, shards, config, progress=progress)
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        max_shard_bytes: int = 5 * 10**9,
        for_transformers: bool = True,
    ) -> None:
        """Write `config.json` and shards under the released names, atomically.

        Args:
            folder: Made if it is not there.
            max_shard_bytes: Of a file.
            for_transformers: Also write the gates and ups, all zero, that transformers allocates
                for identity experts and does not load without. Released checkpoints have none, and
                vLLM reads none: false for it. Both kinds load here.
        """
        state = self.state_dict()
        if for_transformers:
            state = add_identity_rows(state, self.config.zero_expert_num)
        dtype = str(self.model.embed_tokens.weight.dtype).removeprefix("torch.")
        config = {**self.config.to_dict(), "dtype": dtype}
        save_checkpoint(state, config, Path(folder), max_shard_bytes=max_shard_bytes)


@contextmanager
def _again(router: Router) -> Iterator[None]:
    """Let a router note nothing while its layer is computed a second time."""
    router.is_again = True
    try:
        yield
    finally:
        router.is_again = False


def _positions(ids_BT: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Count from 0 in every row, or in every packed sequence."""
    if lengths is None:
        return torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
    return torch.cat([torch.arange(n, device=ids_BT.device) for n in lengths])[None]


def _check_lengths(ids_BT: Tensor, lengths: Sequence[int]) -> None:
    if ids_BT.shape[0] != 1 or sum(lengths) != ids_BT.shape[1] or min(lengths) < 1:
        raise ValueError(
            f"lengths must be positive and fill input_ids of shape (1, T), got a sum of "
            f"{sum(lengths)} for {tuple(ids_BT.shape)}"
        )
