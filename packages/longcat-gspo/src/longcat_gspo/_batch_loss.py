"""What a micro-batch adds to the loss of its whole batch.

Objectives are means over sequences or over tokens. Cut into micro-batches, and over processes, they
stay what they are if each part is weighed by its share of the whole.

Dimension key: T learned tokens, S sequences, both of one micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._config import TrainerConfig
from ._objective import (
    LossStats,
    dapo_loss,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    sequence_mean,
    triplet_clip_loss,
)


@dataclass(frozen=True, slots=True)
class Whole:
    """Sizes of a batch over all micro-batches and processes, samples without advantage included."""

    num_sequences: float
    num_tokens: float


def batch_loss(
    config: TrainerConfig,
    log_probs_T: Tensor,
    old_T: Tensor,
    advantage_S: Tensor,
    sequence_T: Tensor,
    whole: Whole,
    weight_T: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """Return the part of the whole batch's objective that these sequences are."""
    packed = log_probs_T, old_T, advantage_S, sequence_T
    share = len(advantage_S) / whole.num_sequences
    if config.objective == "gspo":
        loss, stats = gspo_loss(*packed, clip=config.clip, weight_T=weight_T)
    elif config.objective == "gspo_token":
        loss, stats = gspo_token_loss(
            log_probs_T, old_T, advantage_S[sequence_T], sequence_T,
            num_sequences=len(advantage_S), clip=config.clip, weight_T=weight_T,
        )  # fmt: skip
    elif config.objective == "grpo":
        loss, stats = grpo_loss(*packed, clip=config.clip, weight_T=weight_T)
    elif config.objective == "dapo":
        loss, stats = dapo_loss(*packed, clip=config.clip, weight_T=weight_T)
        share = len(log_probs_T) / whole.num_tokens
    else:
        loss, stats = triplet_clip_loss(
            *packed, clip=config.triplet_clip, max_tokens=config.max_tokens, weight_T=weight_T
        )
    return loss * share, stats


def divergence(log_probs_T: Tensor, others_T: Tensor) -> Tensor:
    """Estimate of `log p(x) - log q(x)` for x drawn from p, (T,): `q/p - 1 - log(q/p)`.

    Never negative, and its mean over x is `KL(p, q)` (Schulman's k3, as GRPO has it).
    """
    dtype = torch.promote_types(log_probs_T.dtype, torch.float32)
    gap_T = others_T.to(dtype) - log_probs_T.to(dtype)
    return gap_T.exp() - 1 - gap_T


def reference_loss(
    log_probs_T: Tensor, reference_T: Tensor, sequence_T: Tensor, num_sequences: int, whole: Whole
) -> Tensor:
    """This part's divergence from the reference: mean over tokens, then over sequences."""
    kl_T = divergence(log_probs_T, reference_T)
    return sequence_mean(kl_T, sequence_T, num_sequences).sum() / whole.num_sequences
