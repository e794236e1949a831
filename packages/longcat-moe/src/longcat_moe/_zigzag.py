"""Find out which attentions can do with a window, and make those sparse (ZigZag).

    alphas = calibrate(model, batches, lr=0.05)
    config = sparsify(model.config, alphas)          # the lower half becomes sparse

While calibrating, each attention says `alpha * full + (1 - alpha) * sparse`, and alpha alone
learns.

Source: LongCat-Flash-Thinking-2601 report, section 6; how alpha is learned as told of 2512.23966.
Not told, and chosen here: alpha starts at 0.5, has no bound, and learns from the language model's
loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ._attention import CacheView, LatentAttention
from ._config import LongcatConfig
from ._model import DecoderLayer, LongcatForCausalLM
from ._sparse import SparseAttention, Window


class _Mixed(nn.Module):
    """One attention, both ways."""

    def __init__(self, attention: LatentAttention, window: Window) -> None:
        super().__init__()
        self.attention, self.sparse_window = attention, window
        self.alpha = nn.Parameter(torch.tensor(0.5))

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: CacheView | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        attention = self.attention
        full = attention(x_BTD, rotary, cache, lengths)
        attention.window = self.sparse_window
        try:
            sparse = attention(x_BTD, rotary, cache, lengths)
        finally:
            attention.window = None
        return self.alpha * full + (1 - self.alpha) * sparse


def calibrate(
    model: LongcatForCausalLM,
    batches: Iterable[Tensor],
    *,
    lr: float,
    window: Window | None = None,
) -> list[float]:
    """Return how much each attention needs to see all, in order of the layers; low is little.

    The model is left as it was.

    Args:
        model: With full attention in every layer.
        batches: Token ids (B, T), one step each; T must exceed what a window sees.
        lr: Adam's, for the alphas alone.
        window: What sparse attentions would see; the released one when absent.

    Raises:
        ValueError: The model is sparse already, or a batch is too short to tell a difference.
    """
    window = window or Window()
    if model.config.sparse_attention is not None:
        raise ValueError("calibrate needs a model with full attention, this one is sparse already")
    learnable = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    mixed: list[_Mixed] = []
    places = [cast(DecoderLayer, layer).self_attn for layer in model.model.layers]
    for attentions in places:
        for i, attention in enumerate(attentions):
            mixed.append(_Mixed(cast(LatentAttention, attention), window))
            attentions[i] = mixed[-1].to(model.lm_head.weight.device)
    optimizer = torch.optim.Adam([m.alpha for m in mixed], lr=lr)
    try:
        for ids in batches:
            _learn(model, ids, optimizer, window)
    finally:
        for attentions in places:
            for i, wrapped in enumerate(attentions):
                attentions[i] = cast(_Mixed, wrapped).attention
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learnable[name])
    return [float(m.alpha.detach()) for m in mixed]


def _learn(
    model: LongcatForCausalLM, ids: Tensor, optimizer: torch.optim.Optimizer, window: Window
) -> None:
    if ids.shape[1] <= window.num_tokens:
        raise ValueError(
            f"a batch must be longer than the window's {window.num_tokens} tokens, got "
            f"{ids.shape[1]}"
        )
    logits = model(ids[:, :-1]).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def sparsify(
    config: LongcatConfig,
    alphas: Sequence[float],
    *,
    share: float = 0.5,
    window: Window | None = None,
) -> LongcatConfig:
    """Return a config in which the attentions with the lowest alphas are sparse.

    Raises:
        ValueError: There is not one alpha per attention, or `share` is outside [0, 1].
    """
    if len(alphas) != config.num_attentions or not 0 <= share <= 1:
        raise ValueError(
            f"need one alpha for each of {config.num_attentions} attentions and share in [0, 1], "
            f"got {len(alphas)} and {share}"
        )
    num = round(share * len(alphas))
    lowest = set(sorted(range(len(alphas)), key=lambda i: alphas[i])[:num])
    layer_type = "".join("1" if i in lowest else "0" for i in range(len(alphas)))
    sparse = SparseAttention(layer_type=layer_type, window=window or Window())
    return dataclasses.replace(config, sparse_attention=sparse)
