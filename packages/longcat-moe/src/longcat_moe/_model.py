"""The LongCat-Flash decoder: two attentions, two dense FFNs and one shortcut MoE per layer.

The MoE reads the state after the first attention and joins at the very end of the layer; dense
compute in between is what hides its communication on many devices (report 2.2, "ScMoE").

    x ── attn0 ──┬── ffn0 ── attn1 ── ffn1 ──(+)── out
                 └────────── MoE ─────────────┘

Dimension key: B sequences, T tokens, D model width, W vocabulary.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ._attention import CacheView, LatentAttention
from ._checkpoint import load_state, save_checkpoint
from ._config import LongcatConfig
from ._experts import Experts, MoE, Router
from ._layers import DenseFFN, RMSNorm
from ._ngram import NgramEmbedding, collides
from ._rotary import rotary_tables


@dataclass(frozen=True, slots=True)
class CausalLMOutput:
    """What a forward pass returns, named as in transformers."""

    logits: Tensor
    """(B, T, W), or (N, W) where only some were asked for"""


class DecoderLayer(nn.Module):
    """One shortcut-connected layer, exactly as in report section 2.2."""

    def __init__(self, config: LongcatConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.mlp = MoE(config)
        self.self_attn = nn.ModuleList(LatentAttention(config, 2 * layer + i) for i in (0, 1))
        self.mlps = nn.ModuleList(DenseFFN(width, config.ffn_hidden_size) for _ in (0, 1))
        self.input_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in (0, 1))
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in (0, 1))

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: CacheView | None,
        real: Tensor | None,
    ) -> Tensor:
        """Run the layer; `real` (flat indices of unpadded tokens) spares the MoE the padding."""
        x = x_BTD + self.self_attn[0](self.input_layernorm[0](x_BTD), rotary, cache)
        h = self.post_attention_layernorm[0](x)
        shortcut = self._experts(h, real)
        x = x + self.mlps[0](h)
        x = x + self.self_attn[1](self.input_layernorm[1](x), rotary, cache)
        return x + self.mlps[1](self.post_attention_layernorm[1](x)) + shortcut

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
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: CacheView | None = None,
        before_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the normed last state, (B, T, D)."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        rotary = rotary_tables(position_ids, self.config)
        real = None if attention_mask is None else attention_mask.flatten().nonzero().flatten()
        x = self.embed_tokens(input_ids)
        if self.ngram_embeddings is not None:
            assert cache is None or before_ids is not None, "packed tokens need before_ids"
            x = self.ngram_embeddings(x, input_ids, before_ids)
        for layer in self.layers:
            x = layer(x, rotary, cache, real)
        return self.norm(x)


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
                f"ngram_vocab_size_ratio={self.config.ngram_vocab_size_ratio:g} is close to a whole "
                "number or a half: many 2-grams will share a row. Choose one well between, as 78.3",
                stacklevel=3,
            )
        std = self.config.initializer_range
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, Experts):
                nn.init.normal_(module.gate_up_proj, std=std)
                nn.init.normal_(module.down_proj, std=std)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: CacheView | None = None,
        logits_mask: Tensor | None = None,
        before_ids: Tensor | None = None,
    ) -> CausalLMOutput:
        """Return logits (B, T, W), or (N, W) of the N tokens where `logits_mask` is true.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 for real tokens. Padding must be on the right; the causal
                mask keeps it from being seen, and the experts never compute it.
            position_ids: (B, T); counted from 0 when absent.
            cache: Latents of earlier tokens, see `CacheView`; new tokens are packed, B = 1.
            logits_mask: (B, T), true where a prediction is wanted.
            before_ids: (B, T, N - 1) for n-gram embeddings with a cache: see `neighbours`. Without
                a cache they are computed from `input_ids`.

        Raises:
            ValueError: The padding is not on the right.
        """
        if attention_mask is not None and cache is None:
            _check_right_padded(attention_mask)
        hidden = self.model(input_ids, attention_mask, position_ids, cache, before_ids)
        return CausalLMOutput(self.lm_head(hidden if logits_mask is None else hidden[logits_mask]))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> LongcatForCausalLM:
        """Load a checkpoint folder (`config.json`, `*.safetensors`), ours or anyone's.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A key is missing or has the wrong shape; the message names it.
        """
        config = LongcatConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = cls(config)
        model.to_empty(device=device).to(dtype)
        for module in model.modules():  # buffers that no checkpoint holds start at zero
            if isinstance(module, Router):
                module.float()
                module.counts.zero_()
        load_state(model, Path(folder), num_ffn=config.n_routed_experts)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` under the released names, atomically."""
        save_checkpoint(self.state_dict(), self.config.to_dict(), Path(folder))


def _check_right_padded(mask_BT: Tensor) -> None:
    if bool((mask_BT[:, 1:] > mask_BT[:, :-1]).any()):
        raise ValueError("attention_mask must be 1s then 0s in every row (padding on the right)")
