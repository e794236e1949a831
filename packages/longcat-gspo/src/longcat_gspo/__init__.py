"""What to optimise: GSPO and its relatives as pure functions, and a thin trainer."""

from ._advantage import Baseline, group_advantages
from ._agreement import MismatchWarning
from ._attempts import attempt_advantages
from ._batches import token_batches
from ._budget import (
    CapabilityValue,
    CobaValue,
    Value,
    allocate_budget,
    coba_value,
    knapsack_value,
)
from ._config import Objective, TrainerConfig
from ._curriculum import PassRateCurriculum
from ._distill import mopd_loss, reverse_kl_loss
from ._gift import gift_loss
from ._linear import linear_log_probs, linear_log_probs_and_entropy
from ._mismatch import Correction, hispo_mask, mismatch_weights
from ._mopd import MopdTrainer
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
from ._oversample import Oversampler, num_groups
from ._samples import Attempt, Sample, as_samples
from ._stages import ContextGrowth, StagedCurriculum, TaskFacts
from ._trainer import GspoTrainer
from ._verify import Stagnation, VerificationItem, verification_items, verification_reward

__all__ = [
    "Attempt", "Baseline", "CapabilityValue", "ClipRange", "CobaValue", "ContextGrowth",
    "Correction", "GspoTrainer", "LossStats", "MismatchWarning", "MopdTrainer",
    "Objective", "Oversampler", "PassRateCurriculum", "Sample", "StagedCurriculum", "Stagnation",
    "TaskFacts",
    "TrainerConfig", "TripletClip", "Value", "VerificationItem", "allocate_budget", "as_samples",
    "attempt_advantages", "coba_value",
    "dapo_loss", "gift_loss", "group_advantages", "grpo_loss", "gspo_loss", "gspo_token_loss",
    "hispo_mask", "knapsack_value", "linear_log_probs", "linear_log_probs_and_entropy",
    "mismatch_weights", "mopd_loss", "num_groups", "reverse_kl_loss",
    "sequence_mean", "token_batches", "triplet_clip_loss", "verification_items",
    "verification_reward",
]  # fmt: skip
