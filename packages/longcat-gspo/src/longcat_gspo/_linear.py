"""Log-probabilities straight from hidden states, without ever holding all tokens by all words.

The output matrix is applied to some tokens at a time; what the backward pass needs of a token is
one number, its log-sum-exp, and the rest is computed again. At 4,096 tokens and 131,072 words one
such matrix alone would take 2.1 GB, and the plain way holds several.

Dimension key: T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

CHUNK_BYTES = 128 << 20
"""Chunks are chosen so that the logits of one take about as much."""
CUDA_CHUNK_BYTES = 512 << 20
"""On a GPU, which waits between small chunks."""


def linear_log_probs(
    hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor, *, chunk_tokens: int | None = None
) -> Tensor:
    """Return `log softmax(hidden W^T)[target]` of each token, (T,), in float32 or better.

    Gradients reach `hidden_TD` and `weight_VD` and equal those of the plain way.

    Args:
        hidden_TD: Last states, after the final norm.
        weight_VD: The output matrix.
        target_T: The tokens whose log-probability is wanted.
        chunk_tokens: Tokens computed at once; about 128 MB of logits (512 MB on a GPU) when absent.

    Raises:
        ValueError: Shapes do not fit, or `chunk_tokens` is below 1.
    """
    return _apply(hidden_TD, weight_VD, target_T, chunk_tokens, with_entropy=False)[0]


def linear_log_probs_and_entropy(
    hidden_TD: Tensor, weight_VD: Tensor, target_T: Tensor, *, chunk_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return what `linear_log_probs` does, and the entropy of each token's distribution.

    The entropy is in nats, (T,), and carries no gradient. Arguments and errors: `linear_log_probs`.
    """
    return _apply(hidden_TD, weight_VD, target_T, chunk_tokens, with_entropy=True)


def _apply(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    chunk_tokens: int | None,
    *,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    num, width = hidden_TD.shape
    if target_T.shape != (num,) or weight_VD.shape[1:] != (width,):
        raise ValueError(
            f"need hidden (T, D), weight (V, D), target (T,), got {tuple(hidden_TD.shape)}, "
            f"{tuple(weight_VD.shape)}, {tuple(target_T.shape)}"
        )
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    chunk = chunk_tokens or fitting_tokens(len(weight_VD), is_cuda=hidden_TD.is_cuda)
    out = _LinearLogProbs.apply(hidden_TD, weight_VD, target_T, chunk, with_entropy)
    return cast("tuple[Tensor, Tensor]", out)


def fitting_tokens(num_words: int, *, is_cuda: bool) -> int:
    """Tokens whose logits in float32 take one chunk's memory; one at least."""
    return max(1, (CUDA_CHUNK_BYTES if is_cuda else CHUNK_BYTES) // (4 * num_words))


def _logits(hidden_TD: Tensor, weight_VD: Tensor) -> Tensor:
    logits_TV = hidden_TD @ weight_VD.T
    return logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, chunk: int, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        parts: list[Tensor] = []
        sums: list[Tensor] = []
        entropies: list[Tensor] = []
        for h, t in zip(hidden.split(chunk), target.split(chunk), strict=True):
            logits = _logits(h, weight)
            sums.append(logits.logsumexp(-1))
            parts.append(logits.gather(1, t[:, None])[:, 0] - sums[-1])
            if with_entropy:
                logits.sub_(sums[-1][:, None])
                # One more matrix of the chunk's size, and no third.
                entropies.append(-logits.exp().mul_(logits).sum(-1))
        ctx.save_for_backward(hidden, weight, target, torch.cat(sums))
        ctx.chunk = chunk
        entropy = torch.cat(entropies) if with_entropy else sums[0].new_empty(0)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(parts), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target, sums = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight) if to_weight else None
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            h, t, g = hidden[part], target[part], grads[0][part, None]
            # d log p_t / d logits = onehot(t) - softmax(logits), in place: one buffer a chunk
            slope = _logits(h, weight).sub_(sums[part, None]).exp_().mul_(-g)
            slope.scatter_add_(1, t[:, None], g.to(slope.dtype))
            slope = slope.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ weight
            if grad_weight is not None:
                grad_weight.addmm_(slope.T, h)
        return grad_hidden, grad_weight, None, None, None
