"""When the engine that sampled and the trainer do not agree on the same weights.

Three logs of a token's probability are kept apart: `engine` under the weights that sampled it, as
the engine computed it; `old` under those same weights, as the trainer computes it; and the one in
training. `old - engine` is mismatch, `new - old` is learning.

Dimension key: T sampled tokens, S sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ._numbers import as_number, keep
from ._objective import log_gap, sequence_mean

Level = Literal["token", "sequence"]
Mode = Literal["truncate", "mask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How samples of an engine that computes otherwise are weighed: see `mismatch_weights`."""

    level: Level = "token"
    mode: Mode = "truncate"
    cap: float = 2.0

    def __post_init__(self) -> None:
        if self.level not in get_args(Level) or self.mode not in get_args(Mode):
            raise ValueError(
                f"level must be one of {get_args(Level)} and mode one of {get_args(Mode)}, got "
                f"{self.level!r} and {self.mode!r}"
            )
        cap = as_number(self.cap)
        if cap is None or not cap >= 1:
            raise ValueError(f"cap must be at least 1, got {self.cap!r}")
        keep(self, cap=cap)


def mismatch_weights(
    old_log_probs_T: Tensor,
    engine_log_probs_T: Tensor,
    sequence_T: Tensor,
    *,
    num_sequences: int,
    level: Level = "token",
    mode: Mode = "truncate",
    cap: float = 2.0,
) -> Tensor:
    """Importance weights `pi_old / pi_engine` of each token, (T,), detached and bounded.

    Args:
        old_log_probs_T: Of the trainer under the weights that sampled.
        engine_log_probs_T: Of the engine under the same weights.
        sequence_T: Sequence of each token.
        num_sequences: S.
        level: The token's own ratio, or its sequence's geometric mean.
        mode: `truncate`: at most `cap` (LongCat-Flash-Thinking 2509 eq. 4: min(r, C)). `mask`: 0
            where the ratio leaves `[1 / cap, cap]`.
        cap: At least 1.

    Raises:
        ValueError: `cap` is below 1.
    """
    if not cap >= 1:
        raise ValueError(f"cap must be at least 1, got {cap}")
    gap_T = log_gap(old_log_probs_T, engine_log_probs_T).detach()
    if level == "sequence":
        gap_T = sequence_mean(gap_T, sequence_T, num_sequences)[sequence_T]
    ratio_T = gap_T.exp()
    if mode == "truncate":
        return ratio_T.clamp(max=cap)
    return ratio_T * ((ratio_T <= cap) & (ratio_T >= 1 / cap))


def hispo_mask(
    old_log_probs_T: Tensor,
    engine_log_probs_T: Tensor,
    sequence_T: Tensor,
    *,
    num_sequences: int,
    max_sequence_gap: float,
    max_token_gap: float,
) -> Tensor:
    """Which tokens HisPO learns from, (T,): neither they nor their sequence mismatch too much.

    `|exp(mean_j log r_j) - 1| < max_sequence_gap` and `|r_t - 1| < max_token_gap` with
    `r = pi_old / pi_engine` (LongCat-Flash-Prover section 3.3, eq. 8 and 9).
    """
    gap_T = log_gap(old_log_probs_T, engine_log_probs_T).detach()
    sequence_S = sequence_mean(gap_T, sequence_T, num_sequences).exp()
    is_near_S = (sequence_S - 1).abs() < max_sequence_gap
    return is_near_S[sequence_T] & ((gap_T.exp() - 1).abs() < max_token_gap)
