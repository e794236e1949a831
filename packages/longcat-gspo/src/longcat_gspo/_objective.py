"""Policy-gradient objectives as pure functions on packed tokens.

A packed batch has no padding: all sampled tokens of all sequences stand in one line, and
`sequence_T` says which sequence each belongs to.

- Sums are taken in float32 or better, whatever log-probabilities come in.
- The old side carries no gradient, even if it is the same tensor as the new one.

Dimension key: T sampled tokens (of all sequences), S sequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._numbers import as_number, keep


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRange:
    """The ratio is held in [1 - low, 1 + high]. Defaults: GSPO (arXiv 2507.18071)."""

    low: float = 3e-4
    high: float = 4e-4

    def __post_init__(self) -> None:
        low, high = as_number(self.low), as_number(self.high)
        if low is None or high is None or not (0 <= low < 1 and 0 <= high < math.inf):
            raise ValueError(f"need 0 <= low < 1 and high >= 0, got {self.low} and {self.high}")
        keep(self, low=low, high=high)


@dataclass(frozen=True, slots=True)
class LossStats:
    """What a loss saw, detached."""

    ratio_S: Tensor
    """Sequence ratios; for token objectives, the mean over each sequence's tokens."""
    is_clipped_S: Tensor
    """Whether clipping cut the sequence's gradient; for token objectives, the share of tokens."""


def sequence_mean(values_T: Tensor, sequence_T: Tensor, num_sequences: int) -> Tensor:
    """Mean of each sequence's tokens, (S,), in float32 or better."""
    values_T = values_T.to(torch.promote_types(values_T.dtype, torch.float32))
    sums = values_T.new_zeros(num_sequences).index_add(0, sequence_T, values_T)
    counts = torch.bincount(sequence_T, minlength=num_sequences).clamp_min(1)
    return sums / counts


def gspo_loss(
    log_probs_T: Tensor,
    old_log_probs_T: Tensor,
    advantage_S: Tensor,
    sequence_T: Tensor,
    *,
    clip: ClipRange,
    weight_T: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """GSPO: one ratio per sequence, the geometric mean of its tokens' ratios.

    `-mean_S min(s A, clip(s) A)` with `s = exp(mean_t(log p - log p_old))` over the tokens that the
    model sampled (LongCat-Flash-Thinking-2601 eq. 1; arXiv 2507.18071 eq. 5 to 7).

    Args:
        log_probs_T: Under the weights in training; carries the gradient.
        old_log_probs_T: Under the weights that sampled.
        advantage_S: One per sequence.
        sequence_T: Sequence of each token, in 0..S-1.
        clip: The trust region.
        weight_T: Of each token's sequence, against the engine: see `mismatch_weights` at level
            `sequence`.
    """
    gap_T = _gap(log_probs_T, old_log_probs_T, sequence_T, len(advantage_S))
    gap_S = sequence_mean(gap_T, sequence_T, len(advantage_S))
    ratio_S = gap_S.exp()
    free_S = ratio_S * advantage_S
    held_S = ratio_S.clamp(1 - clip.low, 1 + clip.high) * advantage_S
    least_S = torch.minimum(free_S, held_S)
    if weight_T is not None:
        least_S = least_S * sequence_mean(weight_T, sequence_T, len(advantage_S))
    return -least_S.mean(), LossStats(ratio_S.detach(), (held_S < free_S).detach().float())


def gspo_token_loss(
    log_probs_T: Tensor,
    old_log_probs_T: Tensor,
    advantage_T: Tensor,
    sequence_T: Tensor,
    *,
    num_sequences: int,
    clip: ClipRange,
    weight_T: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """GSPO-token: the sequence ratio as a value, the gradient through each token.

    With one advantage per sequence its gradient equals that of `gspo_loss` (arXiv 2507.18071
    eq. 13); it admits an advantage per token.
    """
    gap_T = _gap(log_probs_T, old_log_probs_T, sequence_T, num_sequences)
    ratio_S = sequence_mean(gap_T, sequence_T, num_sequences).detach().exp()
    ratio_T = ratio_S[sequence_T] * (gap_T - gap_T.detach()).exp()
    free_T = ratio_T * advantage_T
    held_T = ratio_T.clamp(1 - clip.low, 1 + clip.high) * advantage_T
    least_T = _weighted(torch.minimum(free_T, held_T), weight_T)
    loss_S = sequence_mean(least_T, sequence_T, num_sequences)
    clipped_S = sequence_mean((held_T < free_T).float(), sequence_T, num_sequences)
    return -loss_S.mean(), LossStats(ratio_S, clipped_S.detach())


def grpo_loss(
    log_probs_T: Tensor,
    old_log_probs_T: Tensor,
    advantage_S: Tensor,
    sequence_T: Tensor,
    *,
    clip: ClipRange,
    weight_T: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """GRPO as a baseline: one ratio per token, mean over tokens, then over sequences."""
    least_T, stats = _clipped_tokens(log_probs_T, old_log_probs_T, advantage_S, sequence_T, clip)
    least_T = _weighted(least_T, weight_T)
    return -sequence_mean(least_T, sequence_T, len(advantage_S)).mean(), stats


def dapo_loss(
    log_probs_T: Tensor,
    old_log_probs_T: Tensor,
    advantage_S: Tensor,
    sequence_T: Tensor,
    *,
    clip: ClipRange,
    weight_T: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """DAPO as a baseline: one ratio per token, mean over all tokens: long sequences weigh more."""
    least_T, stats = _clipped_tokens(log_probs_T, old_log_probs_T, advantage_S, sequence_T, clip)
    return -_weighted(least_T, weight_T).mean(), stats


def _weighted(values_T: Tensor, weight_T: Tensor | None) -> Tensor:
    return values_T if weight_T is None else values_T * weight_T


def _clipped_tokens(
    log_probs_T: Tensor,
    old_log_probs_T: Tensor,
    advantage_S: Tensor,
    sequence_T: Tensor,
    clip: ClipRange,
) -> tuple[Tensor, LossStats]:
    """`min(r A, clip(r) A)` of each token, (T,)."""
    ratio_T = _gap(log_probs_T, old_log_probs_T, sequence_T, len(advantage_S)).exp()
    advantage_T = advantage_S[sequence_T]
    free_T = ratio_T * advantage_T
    held_T = ratio_T.clamp(1 - clip.low, 1 + clip.high) * advantage_T
    stats = _token_stats(ratio_T, held_T < free_T, sequence_T, len(advantage_S))
    return torch.minimum(free_T, held_T), stats


@dataclass(frozen=True, slots=True, kw_only=True)
class TripletClip:
    """Bounds of `triplet_clip_loss`; the report does not print its values, these are ours."""

    negative_low: float = 0.2
    """A bad token's ratio below `1 - negative_low` is pushed no further down."""
    positive_high: float = 0.28
    """A good token's ratio above `1 + positive_high` is pushed no further up."""
    negative_high: float = 3.0
    """A bad token counts at most as if its ratio were this."""

    def __post_init__(self) -> None:
        low, high = as_number(self.negative_low), as_number(self.positive_high)
        most = as_number(self.negative_high)
        is_in = (
            low is not None
            and high is not None
            and most is not None
            and (0 <= low < 1 and high >= 0 and most >= 1)
        )
        if not is_in:
            raise ValueError(
                "need 0 <= negative_low < 1, positive_high >= 0 and negative_high >= 1, got "
                f"{self.negative_low}, {self.positive_high} and {self.negative_high}"
            )
        keep(self, negative_low=low, positive_high=high, negative_high=most)


def triplet_clip_loss(
    log_probs_T: Tensor,
    old_log_probs_T: Tensor,
    advantage_S: Tensor,
    sequence_T: Tensor,
    *,
    clip: TripletClip,
    max_tokens: int,
    weight_T: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """The token objective of LongCat-Flash-Thinking 2509, equation 4.

    `-1 / (S max_tokens) sum w max(min(r A, clip(r) A), negative_high A)`, the outer max for A < 0
    alone. A constant denominator: no sequence's length changes what its tokens weigh.

    Args:
        log_probs_T: Under the weights in training; carries the gradient.
        old_log_probs_T: Under the weights that sampled, as the trainer computes them.
        advantage_S: One per sequence.
        sequence_T: Sequence of each token.
        clip: The three bounds.
        max_tokens: Longest length of a sequence, the report's T_max.
        weight_T: Truncated importance weights against the engine: see `mismatch_weights`.
    """
    if not max_tokens >= 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    ratio_T = _gap(log_probs_T, old_log_probs_T, sequence_T, len(advantage_S)).exp()
    advantage_T = advantage_S[sequence_T]
    free_T = ratio_T * advantage_T
    held_T = torch.minimum(
        free_T, ratio_T.clamp(1 - clip.negative_low, 1 + clip.positive_high) * advantage_T
    )
    floor_T = clip.negative_high * advantage_T
    held_T = torch.where(advantage_T < 0, torch.maximum(held_T, floor_T), held_T)
    is_cut_T = held_T != free_T
    held_T = _weighted(held_T, weight_T)
    loss = -held_T.sum() / (len(advantage_S) * max_tokens)
    return loss, _token_stats(ratio_T, is_cut_T, sequence_T, len(advantage_S))


def _token_stats(
    ratio_T: Tensor, is_cut_T: Tensor, sequence_T: Tensor, num_sequences: int
) -> LossStats:
    return LossStats(
        sequence_mean(ratio_T, sequence_T, num_sequences).detach(),
        sequence_mean(is_cut_T.float(), sequence_T, num_sequences).detach(),
    )


def _gap(
    log_probs_T: Tensor, old_log_probs_T: Tensor, sequence_T: Tensor, num_sequences: int
) -> Tensor:
    """`log p - log p_old` of each token, (T,), in float32 or better; the old side detached."""
    if not log_probs_T.shape == old_log_probs_T.shape == sequence_T.shape:
        raise ValueError(
            "log_probs, old_log_probs and sequence must have one shape (T,), got "
            f"{tuple(log_probs_T.shape)}, {tuple(old_log_probs_T.shape)}, {tuple(sequence_T.shape)}"
        )
    if log_probs_T.numel() == 0:
        raise ValueError("a batch must hold at least one sampled token, got none")
    last = int(sequence_T.max())
    if last >= num_sequences or int(sequence_T.min()) < 0:
        raise ValueError(
            f"sequence must be in 0 to {num_sequences - 1}, one advantage each, got {last}"
        )
    return log_gap(log_probs_T, old_log_probs_T)


def log_gap(log_probs_T: Tensor, old_log_probs_T: Tensor) -> Tensor:
    """The difference in float32 or better; the second has no gradient."""
    dtype = torch.promote_types(log_probs_T.dtype, torch.float32)
    return log_probs_T.to(dtype) - old_log_probs_T.detach().to(dtype)
