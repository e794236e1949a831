"""What to optimise: GSPO and its relatives as pure functions, and a thin trainer."""

from ._advantage import Baseline, group_advantages
from ._batches import token_batches
from ._budget import Value, allocate_budget, coba_value
from ._curriculum import PassRateCurriculum
from ._objective import (
    ClipRange,
    LossStats,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    sequence_mean,
)
from ._trainer import GspoTrainer, Sample, TrainerConfig

__all__ = [
    "Baseline", "ClipRange", "GspoTrainer", "LossStats", "PassRateCurriculum", "Sample", "TrainerConfig",
    "Value", "allocate_budget", "coba_value", "group_advantages", "grpo_loss", "gspo_loss",
    "gspo_token_loss", "sequence_mean", "token_batches",
]  # fmt: skip
