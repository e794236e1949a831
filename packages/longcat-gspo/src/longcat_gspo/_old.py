"""What ratios are taken against: the engine's log-probs, or the trainer's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._agreement import Agreement
from ._config import TrainerConfig
from ._mismatch import mismatch_weights
from ._parts import Mismatch, Part
from ._predict import Predict


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
        return
    part.old_T = own_T
    part.weight_T = mismatch_weights(
        own_T, engine_T, rows.sequence_T, num_sequences=len(part.advantage_S),
        level=correction.level, mode=correction.mode, cap=correction.cap,
    )  # fmt: skip
