"""On-policy distillation: several teachers into one student, on what the student itself samples.

Each prompt has one teacher, that of its domain. Every token that the student sampled is judged by
that teacher, densely, where a reward would judge the whole answer once.

- The teacher's side and the weights carry no gradient; log pi_theta alone does.
- On the student's own samples the gradient is that of the reverse KL divergence on average, which
  `reverse_kl_loss` computes without sampling where the teacher's whole distribution is at hand.

Dimension key: T sampled tokens (of all sequences), S sequences, V vocabulary.

Source: MOPD, arXiv 2606.30406; MiMo-V2-Flash report (arXiv 2601.02780), multi-teacher on-policy
distillation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._objective import LossStats, log_gap, sequence_mean


def mopd_loss(
    log_probs_T: Tensor,
    teacher_log_probs_T: Tensor,
    sampled_log_probs_T: Tensor,
    sequence_T: Tensor,
    *,
    num_sequences: int,
    low: float = 0.5,
    high: float = 2.0,
    advantage_S: Tensor | None = None,
    reward_weight: float = 0.0,
    max_gap: float = math.inf,
    weight_S: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """Multi-teacher on-policy distillation, from the log-probabilities of sampled tokens alone.

    `-mean_S mean_t w_t A_t log pi_theta(y_t)` with `A = sg[log pi_teacher - log pi_theta] +
    reward_weight A_reward`, and `w = sg[pi_theta / mu]` where that lies in `[low, high]`, else 0.

    Args:
        log_probs_T: Under the weights in training; carries the gradient.
        teacher_log_probs_T: Under the teacher of the sequence's domain.
        sampled_log_probs_T: Under `mu`, which sampled the tokens.
        sequence_T: Sequence of each token, in 0..S-1.
        num_sequences: S.
        low: Tokens whose ratio is below teach nothing. The bounds' values are ours.
        high: Tokens whose ratio is above teach nothing.
        advantage_S: Of a reward, one per sequence, if one is mixed in.
        reward_weight: What it is multiplied with, the report's alpha.
        max_gap: Largest size of the teacher's part, in nats; ours, for teachers that rule a token
            out.
        weight_S: What a sequence counts; 1 when absent. An attempt's k segments count 1/k each.

    Raises:
        ValueError: The shapes differ, a sequence is out of range, the bounds are no band around 1,
            a weight is missing, or a teacher's part is not finite; the message says which.
    """
    _check(log_probs_T, (teacher_log_probs_T, sampled_log_probs_T, sequence_T), "(T,)")
    if not 0 <= low <= 1 <= high or not max_gap > 0:
        raise ValueError(
            f"need 0 <= low <= 1 <= high and max_gap > 0, got {low}, {high} and {max_gap}"
        )
    if not 0 <= int(sequence_T.min()) <= int(sequence_T.max()) < num_sequences:
        raise ValueError(
            f"sequence must be in 0 to {num_sequences - 1}, got {int(sequence_T.min())} to "
            f"{int(sequence_T.max())}"
        )
    gap_T = -log_gap(log_probs_T, teacher_log_probs_T).detach().clamp(-max_gap, max_gap)
    if not bool(gap_T.isfinite().all()):
        raise ValueError(
            f"log-probabilities of {int((~gap_T.isfinite()).sum())} tokens are not finite; "
            "a finite max_gap holds what a teacher rules out"
        )
    if reward_weight:
        if advantage_S is None or advantage_S.shape != (num_sequences,):
            raise ValueError(f"reward_weight={reward_weight} needs one advantage per sequence")
        gap_T = gap_T + reward_weight * advantage_S.detach().to(gap_T.dtype)[sequence_T]
    ratio_T = log_gap(log_probs_T, sampled_log_probs_T).detach().exp()
    is_cut_T = (ratio_T < low) | (ratio_T > high)
    weight_T = torch.where(is_cut_T, 0, ratio_T)
    loss_S = sequence_mean(weight_T * gap_T * log_probs_T, sequence_T, num_sequences)
    if weight_S is not None:
        if weight_S.shape != (num_sequences,):
            raise ValueError(f"weight_S must be of shape ({num_sequences},), got {weight_S.shape}")
        loss_S = loss_S * weight_S
    stats = LossStats(
        sequence_mean(ratio_T, sequence_T, num_sequences),
        sequence_mean(is_cut_T.float(), sequence_T, num_sequences),
    )
    return -loss_S.mean(), stats


def reverse_kl_loss(
    logits_TV: Tensor, teacher_logits_TV: Tensor, sequence_T: Tensor, *, num_sequences: int
) -> Tensor:
    """`mean_S mean_t KL(pi_theta || pi_teacher)` over the whole vocabulary, in float32 or better.

    Args:
        logits_TV: Of the student at the tokens that it sampled; carries the gradient.
        teacher_logits_TV: Of the teacher of the sequence's domain at the same places.
        sequence_T: Sequence of each token.
        num_sequences: S.

    Raises:
        ValueError: The shapes differ.
    """
    _check(logits_TV, (teacher_logits_TV,), "(T, V)")
    dtype = torch.promote_types(logits_TV.dtype, torch.float32)
    log_probs_TV = logits_TV.to(dtype).log_softmax(-1)
    teacher_TV = teacher_logits_TV.detach().to(dtype).log_softmax(-1)
    kl_T = (log_probs_TV.exp() * (log_probs_TV - teacher_TV)).sum(-1)
    return sequence_mean(kl_T, sequence_T, num_sequences).mean()


def _check(first: Tensor, others: tuple[Tensor, ...], what: str) -> None:
    shapes = [tuple(tensor.shape) for tensor in (first, *others)]
    if len(set(shapes)) > 1 or first.numel() == 0:
        raise ValueError(f"all tensors must have one shape {what} that is not empty, got {shapes}")
