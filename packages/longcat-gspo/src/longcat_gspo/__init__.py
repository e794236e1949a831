"""What to optimise: GSPO and its relatives as pure functions, and a thin trainer."""

from ._advantage import Baseline, group_advantages
from ._batches import token_batches
from ._budget import Value, allocate_budget, coba_value
from ._curriculum import PassRateCurriculum
from ._gift import gift_loss
from ._linear import linear_log_probs
from ._mismatch import hispo_mask, mismatch_weights
from ._objective import (
    ClipRange,
    LossStats,
    TripletClip,
    dapo_loss,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    sequence_mean,
    triplet_clip_loss,
)
from ._trainer import GspoTrainer, Sample, TrainerConfig

__all__ = [
    "Baseline", "ClipRange", "GspoTrainer", "LossStats", "PassRateCurriculum", "Sample",
    "TrainerConfig", "TripletClip", "Value", "allocate_budget", "coba_value", "dapo_loss",
    "gift_loss", "group_advantages", "grpo_loss", "gspo_loss", "gspo_token_loss", "hispo_mask",
    "linear_log_probs", "mismatch_weights", "sequence_mean", "token_batches", "triplet_clip_loss",
]  # fmt: skip
