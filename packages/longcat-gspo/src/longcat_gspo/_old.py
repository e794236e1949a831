"""What ratios are taken against: the engine's log-probs, or the trainer's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._agreement import Agreement
from ._config import TrainerConfig
from ._mismatch import mismatch_weights
from ._objective import ClipRange, log_gap, sequence_mean
from ._parts import Mismatch, Part
from ._predict import Predict

_BY_SEQUENCE = ("gspo", "gspo_token")


def look_at_engine(parts: Sequence[Part], agreement: Agreement, predict: Predict) -> None:
    """Find out whether it agrees, at the price of one more pass over a part of one batch."""
    if not agreement.is_open:
        return
    for part in sorted(parts, key=lambda part: -len(part.rows.place_T)):
        if not agreement.is_open:
            return
        if (part.on_policy_S & part.rows.has_old_S).any():
            with torch.no_grad():
                own_T, _ = predict(part.rows)
            told = Mismatch.of(part, own_T)
            if told is not None:
                agreement.observe(told.own_T, told.engine_T, told.sequence_T, told.num_sequences)


def set_old(part: Part, log_probs_T: Tensor, config: TrainerConfig, *, takes_own: bool) -> None:
    """Note what ratios are against, from the first pass over a batch.

    Args:
        part: Is written into.
        log_probs_T: The trainer's own, of the weights as the batch began.
        config: Whose log-probs are wanted.
        takes_own: Whether `auto` means the trainer's.
    """
    rows, own_T = part.rows, log_probs_T.detach()
    part.mismatch = Mismatch.of(part, own_T)
    wanted, correction = config.old_log_probs, config.correction
    engine_T = torch.where(rows.has_old_S[rows.sequence_T], rows.old_T, own_T)
    if correction is None:
        is_own = wanted == "trainer" or (wanted == "auto" and takes_own)
        part.old_T = own_T if is_own else engine_T
        if wanted == "auto" and not is_own and config.objective in _BY_SEQUENCE:
            part.outdated_S = _outdated(part, own_T, engine_T, config.clip)
            part.old_T = torch.where(part.outdated_S[rows.sequence_T], own_T, engine_T)
        return
    part.old_T = own_T
    part.weight_T = mismatch_weights(
        own_T, engine_T, rows.sequence_T, num_sequences=len(part.advantage_S),
        level=correction.level, mode=correction.mode, cap=correction.cap,
    )  # fmt: skip


def _outdated(part: Part, own_T: Tensor, engine_T: Tensor, clip: ClipRange) -> Tensor:
    """Which sequences of older versions are out of the clip range by their age alone, (S,).

    GSPO's range is narrow: a version or two move most ratios out of it before the batch has had its
    step, and the clip, which is to bound how far that step carries, would throw their gradient away.
    """
    gap_T = log_gap(own_T, engine_T)
    ratio_S = sequence_mean(gap_T, part.rows.sequence_T, len(part.advantage_S)).exp()
    return ~part.on_policy_S & ((ratio_S < 1 - clip.low) | (ratio_S > 1 + clip.high))
