"""How a trainer takes its steps; nonsense is refused here, before a model is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from ._advantage import Baseline
from ._mismatch import Correction
from ._numbers import as_number, as_whole, keep, plain
from ._objective import ClipRange, TripletClip

Objective = Literal["gspo", "gspo_token", "grpo", "dapo", "triplet"]
Decay = Literal["none", "linear", "cosine"]
Weigh = Literal["attempts", "samples", "groups"]
OldLogProbs = Literal["auto", "trainer", "engine"]
Optimizer = Literal["adamw", "adamw_8bit", "muon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """How steps are taken."""

    learning_rate: float = 1e-4
    min_learning_rate: float = 0.0
    """What `decay` falls to."""
    warmup_steps: int = 0
    decay: Decay = "none"
    """How the learning rate falls to `min_learning_rate` over `total_steps`."""
    total_steps: int = 0
    weight_decay: float = 0.0
    """Of matrices; norms, biases and other vectors have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-16
    """The report's AdamW epsilon."""
    optimizer: Optimizer = "adamw"
    """`adamw_8bit` (of bitsandbytes, extra `8bit`) keeps AdamW's averages in 8 bits: a quarter of
    their memory. `muon` (of torch) is for hidden layers' matrices, with AdamW for embeddings, the
    output matrix and vectors, at one rate. Others: `GspoTrainer(optimizer=...)`."""
    max_grad_norm: float = 1.0
    objective: Objective = "gspo"
    """`gspo_loss` or one of its relatives; `triplet` is `triplet_clip_loss`."""
    clip: ClipRange = field(default_factory=ClipRange)
    """Of all objectives but `triplet`. GSPO's default is narrow; for token ratios 0.2 is usual."""
    triplet_clip: TripletClip = field(default_factory=TripletClip)
    max_tokens: int = 0
    """Of a sequence's learned tokens; the constant denominator of `triplet`."""
    baseline: Baseline = "mean_std"
    weigh: Weigh = "attempts"
    """What counts alike in the mean: attempts, whatever their number of segments; or each segment
    (`samples`); or, with a budget that gives tasks groups of different sizes, `groups`."""
    kl_coefficient: float = 0.0
    """Weight of the divergence from the reference model; the report has none."""
    temperature: float = 1.0
    """Of the sampling: log-probs are those of `softmax(logits / temperature)`, the policy that
    acted."""
    top_k: int = 0
    """Of the sampling, if it was truncated; 0: it was not. The policy then is the truncated one."""
    top_p: float = 1.0
    """Of the sampling; 1: it was not truncated."""
    old_log_probs: OldLogProbs = "auto"
    """What ratios are taken against: the log-probs of the `engine`; the `trainer`'s own, of the
    weights as the batch began; or (`auto`) the engine's until it is seen to compute otherwise on
    the same weights."""
    correction: Correction | None = None
    """Against an engine that does not agree with the trainer, or whose weights are older: ratios
    are taken against the trainer's own log-probs, and each sample is weighed by how those and the
    engine differ."""
    epochs: int = 1
    """Optimiser steps that `train` takes on each batch; `clip` bounds how far they carry."""
    micro_batch_tokens: int = 4096
    packed: bool = False
    """Lay the sequences of a micro-batch end to end in one row, without padding, told apart by
    `position_ids`: for models of transformers."""
    shared_prefixes: bool = False
    """Also in one row, where what sequences begin with alike (the prompt of attempts at one task)
    is computed once: the same gradient for a fraction of the work. For models of transformers with
    full attention and `attn_implementation="sdpa"`. Its mask is the row's tokens squared, so that
    `micro_batch_tokens` should be some thousands at most."""
    chunked_log_probs: bool = False
    """Never hold all tokens by all words: see `linear_log_probs`. For large vocabularies."""
    master_weights: bool = True
    """Hold bf16 and fp16 weights that are trained in float32, and compute in bf16. Without, a step
    below the weights' own rounding is lost."""

    def __post_init__(self) -> None:
        self._check_numbers()
        for name, kind in (
            ("packed", bool), ("shared_prefixes", bool), ("chunked_log_probs", bool),
            ("master_weights", bool), ("clip", ClipRange), ("triplet_clip", TripletClip),
            ("correction", Correction | None),
        ):  # fmt: skip
            keep(self, **{name: plain(getattr(self, name))})
            if not isinstance(getattr(self, name), kind):
                said = getattr(kind, "__name__", "Correction or None")
                raise ValueError(f"{name} must be a {said}, got {getattr(self, name)!r}")
        for name, allowed in (
            ("decay", Decay), ("objective", Objective), ("weigh", Weigh), ("baseline", Baseline),
            ("old_log_probs", OldLogProbs), ("optimizer", Optimizer),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(allowed):
                got = getattr(self, name)
                raise ValueError(f"{name} must be one of {get_args(allowed)}, got {got!r}")
        if self.decay != "none" and self.total_steps < 1:
            raise ValueError(f"decay {self.decay!r} needs total_steps >= 1, got {self.total_steps}")
        if self.min_learning_rate and self.decay == "none":
            raise ValueError(
                f"min_learning_rate={self.min_learning_rate} is what decay falls to: give decay "
                "'linear' or 'cosine' and total_steps"
            )
        if self.top_k == 1:
            raise ValueError("top_k=1 leaves one word, of which nothing is learned; 0: all words")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must be at most learning_rate={self.learning_rate}, got "
                f"{self.min_learning_rate}"
            )
        if self.objective == "triplet" and self.max_tokens < 1:
            raise ValueError(f"objective 'triplet' needs max_tokens >= 1, got {self.max_tokens}")
        self._check_old()
        in_row = self.packed or self.shared_prefixes
        if self.chunked_log_probs and (self.is_truncated or in_row):
            raise ValueError(
                "chunked_log_probs works with neither top_k and top_p, which need all logits, "
                "nor packed and shared_prefixes"
            )
        if self.packed and self.shared_prefixes:
            raise ValueError("give either packed or shared_prefixes, which is packed already")

    def _check_numbers(self) -> None:
        positive = ("learning_rate", "epsilon", "max_grad_norm", "temperature")
        rules = [(name, 0.0, math.inf, False) for name in positive]
        rules += [(name, 0.0, math.inf, True) for name in
                  ("min_learning_rate", "weight_decay", "kl_coefficient")]  # fmt: skip
        for name, low, high, may_be_low in rules:
            value = as_number(getattr(self, name))
            is_low = value == low and not may_be_low
            if value is None or is_low or not low <= value < high:
                rule, got = "not negative" if may_be_low else "positive", getattr(self, name)
                raise ValueError(f"{name} must be finite and {rule}, got {got!r}")
            keep(self, **{name: value})
        for name, least in (
            ("warmup_steps", 0), ("total_steps", 0), ("max_tokens", 0), ("top_k", 0), ("epochs", 1),
            ("micro_batch_tokens", 1),
        ):  # fmt: skip
            value = as_whole(getattr(self, name))
            if value is None or value < least:
                got = getattr(self, name)
                raise ValueError(f"{name} must be a whole number of at least {least}, got {got!r}")
            keep(self, **{name: value})
        betas = [as_number(b) for b in self.betas] if isinstance(self.betas, tuple | list) else []
        if len(betas) != 2 or not all(beta is not None and 0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        top_p = as_number(self.top_p)
        if top_p is None or not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p!r}")
        keep(self, betas=tuple(betas), top_p=top_p)

    def _check_old(self) -> None:
        if self.correction is None:
            return
        if self.objective == "gspo" and self.correction.level == "token":
            raise ValueError(
                "objective 'gspo' has one ratio a sequence: its correction needs level='sequence'"
            )
        if self.old_log_probs == "engine":
            raise ValueError("a correction is for old_log_probs='trainer', got 'engine'")

    @property
    def is_truncated(self) -> bool:
        """Whether sampling leaves words out."""
        return self.top_k > 0 or self.top_p < 1

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ...; past `total_steps` that of the last one."""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.decay == "none":
            return self.learning_rate * warm
        done = min(step, self.total_steps - 1) / self.total_steps
        left = 1 - done if self.decay == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
        floor = self.min_learning_rate
        return warm * (floor + (self.learning_rate - floor) * left)
