"""Multi-token prediction: a small head that guesses the token after the next one.

    h'_i = block(W [RMS(embed(t_{i+1})) ; RMS(h_i)])      logits of t_{i+2} = lm_head(norm(h'_i))

One dense layer: the state of a token and the embedding of the next, joined, through one attention
and one dense FFN. The output matrix is the model's own. While training it is a second target; while
generating it guesses for the model to check.

Dimension key: B sequences, T tokens, D model width.

Source: LongCat-Flash report 2.4; key names and the order of the two halves as in the released
checkpoints and their serving code, which feeds the state after the model's final norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._attention import CacheView, LatentAttention
from ._config import LongcatConfig
from ._layers import DenseFFN, RMSNorm


class _Norm(nn.Module):
    """A norm one name deeper, as the checkpoints have it (`enorm.m.weight`)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.m = RMSNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return self.m(x)


class _DenseLayer(nn.Module):
    """The dense FFN one name deeper (`transformer_layer.mlp`)."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.mlp = DenseFFN(config.hidden_size, config.ffn_hidden_size)


class _Block(nn.Module):
    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = _Norm(width, eps), _Norm(width, eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = LatentAttention(config, config.num_attentions)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.transformer_layer = _DenseLayer(config)

    def forward(
        self,
        embedded_BTD: Tensor,
        hidden_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: CacheView | None,
        lengths: Sequence[int] | None,
    ) -> Tensor:
        x = self.eh_proj(torch.cat([self.enorm(embedded_BTD), self.hnorm(hidden_BTD)], dim=-1))
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache, lengths)
        return x + self.transformer_layer.mlp(self.post_attention_layernorm(x))


class PredictionHead(nn.Module):
    """`model.mtp` of a checkpoint."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Block(config)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_BTD: Tensor,
        next_ids_BT: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: CacheView | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return states (B, T, D) whose logits are those of the token after `next_ids_BT`."""
        embedded = self.embed_tokens(next_ids_BT)
        return self.norm(self.layers[0](embedded, hidden_BTD, rotary, cache, lengths))
