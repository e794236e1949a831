"""GIFT: a supervised start that leaves a later RL run something to find.

The target is not the expert's token alone but the frozen base, tilted towards it at a finite
temperature: `q(v) ~ p_ref(v) exp(beta 1[v = y])`. Written out,

    q = w onehot(y) + (1 - w) p_ref,    w = sigmoid(log p_ref(y) + log(e^beta - 1))

so that the loss is a mixture of cross-entropy and distillation whose weight each token sets itself,
and `q` is never built. `beta = 0` is distillation to the base, `beta -> inf` is cross-entropy.

Dimension key: T tokens, V vocabulary.

Source: arXiv 2601.09233 and its released code; the mixture form is our algebra, tested against the
definition.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gift_loss(
    logits_TV: Tensor,
    reference_logits_TV: Tensor,
    target_T: Tensor,
    *,
    beta: float = 20.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean over tokens of the cross-entropy between the tilted base and the policy.

    Args:
        logits_TV: Of the policy; carries the gradient.
        reference_logits_TV: Of the frozen base; no gradient.
        target_T: The expert's tokens.
        beta: How strongly the expert's token is favoured; `math.inf` for plain cross-entropy.
        smoothing: Share of a uniform distribution mixed into the base.

    Raises:
        ValueError: `beta` is negative, or `smoothing` is outside [0, 1].
    """
    if not beta >= 0 or not 0 <= smoothing <= 1:
        raise ValueError(f"need beta >= 0 and smoothing in [0, 1], got {beta} and {smoothing}")
    reference_TV = reference_logits_TV.detach().float().softmax(-1)
    reference_TV = (1 - smoothing) * reference_TV + smoothing / reference_TV.shape[-1]
    log_probs_TV = logits_TV.float().log_softmax(-1)
    picked_T = log_probs_TV.gather(1, target_T[:, None])[:, 0]
    tilt = math.inf if math.isinf(beta) else _log_expm1(beta)
    weight_T = torch.sigmoid(reference_TV.gather(1, target_T[:, None])[:, 0].log() + tilt)
    spread_T = (reference_TV * log_probs_TV).sum(-1)
    return -(weight_T * picked_T + (1 - weight_T) * spread_T).mean()


def _log_expm1(beta: float) -> float:
    """`log(e^beta - 1)` without overflow; minus infinity at 0."""
    return beta + math.log1p(-math.exp(-beta)) if beta > 0 else -math.inf
