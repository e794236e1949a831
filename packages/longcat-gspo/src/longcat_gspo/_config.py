"""How a trainer takes its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from ._advantage import Baseline
from ._mismatch import Correction
from ._objective import ClipRange, TripletClip

Objective = Literal["gspo", "gspo_token", "grpo", "dapo", "triplet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How steps are taken."""

    learning_rate: float = 1e-4
    warmup_steps: int = 0
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls to zero over `total_steps`."""
    total_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-16
    """The report's AdamW epsilon."""
    max_grad_norm: float = 1.0
    objective: Objective = "gspo"
    """`gspo_loss` or one of its relatives; `triplet` is `triplet_clip_loss`."""
    clip: ClipRange = field(default_factory=ClipRange)
    """Of all objectives but `triplet`. GSPO's default is narrow; for token ratios 0.2 is usual."""
    triplet_clip: TripletClip = field(default_factory=TripletClip)
    max_tokens: int = 0
    """Of a sequence's learned tokens; the constant denominator of `triplet`."""
    baseline: Baseline = "mean_std"
    weigh: Literal["samples", "groups"] = "samples"
    """What counts alike in the mean. With a budget that gives tasks groups of different sizes, `groups`
    keeps a task from counting more because it was tried more often."""
    kl_coefficient: float = 0.0
    """Weight of the divergence from the reference model; the report has none."""
    correction: Correction | None = None
    """Against an engine that does not agree with the trainer, or whose weights are older: ratios are taken
    against the weights in training as the batch began, at the price of one more forward pass, and each
    sample is weighed by how those and the engine differ. Without it, ratios are against the engine."""
    epochs: int = 1
    """Optimiser steps that `train` takes on each batch; `clip` bounds how far they carry."""
    micro_batch_tokens: int = 4096
    chunked_log_probs: bool = False
    """Never hold all tokens by all words: see `linear_log_probs`. For large vocabularies."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kl_coefficient < 0:
            raise ValueError(f"kl_coefficient must not be negative, got {self.kl_coefficient}")
        if self.decay not in ("none", "linear", "cosine"):
            raise ValueError(f"decay must be 'none', 'linear' or 'cosine', got {self.decay!r}")
        if self.decay != "none" and self.total_steps < 1:
            raise ValueError(f"decay {self.decay!r} needs total_steps >= 1, got {self.total_steps}")
        if self.objective not in get_args(Objective):
            raise ValueError(
                f"objective must be one of {get_args(Objective)}, got {self.objective!r}"
            )
        if self.weigh not in ("samples", "groups"):
            raise ValueError(f"weigh must be 'samples' or 'groups', got {self.weigh!r}")
        if self.objective == "triplet" and self.max_tokens < 1:
            raise ValueError(f"objective 'triplet' needs max_tokens >= 1, got {self.max_tokens}")
        if (
            self.objective == "gspo"
            and self.correction is not None
            and self.correction.level == "token"
        ):
            raise ValueError(
                "objective 'gspo' has one ratio a sequence: its correction needs level='sequence'"
            )
        for name in ("epochs", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ...; past `total_steps` that of the last one."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.decay == "none":
            return self.learning_rate * warm
        done = min(step, self.total_steps - 1) / self.total_steps
        left = 1 - done if self.decay == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
        return self.learning_rate * warm * left
