"""A trainer that distils several teachers into one student, on what the student samples (MOPD).

It meets DORA's trainer protocol as `GspoTrainer` does, and takes its steps as that one does; only
what is optimised differs: no reward is needed, each attempt has the teacher of its domain, and
that judges every token of it.

Dimension key: T learned tokens, S sequences, both of one micro-batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._attempts import attempt_advantages, attempt_keys
from ._batch_loss import divergence
from ._config import TrainerConfig
from ._distill import mopd_loss
from ._limits import check_batch
from ._modes import without_chance
from ._numbers import number
from ._optimizer import no_gradient_left
from ._predict import Predict
from ._samples import Attempt, Rows, Sample, as_samples, micro_batches
from ._tensors import num_words
from ._trainer import GspoTrainer


def domain_of(attempt: Any) -> str:
    """Return the domain that an attempt says it is of, as trajectories of `longcat_dora` do."""
    return attempt.domain


@dataclass(frozen=True, slots=True)
class _Judged:
    """A segment, and what it counts."""

    sample: Sample
    weight: float
    advantage: float


@dataclass(slots=True)
class _Part:
    """A micro-batch of one teacher's segments, laid out once for all epochs."""

    teacher: str
    rows: Rows
    weight_S: Tensor
    advantage_S: Tensor
    teacher_T: Tensor
    old_T: Tensor | None = None


@dataclass(slots=True)
class _Seen:
    """Sums over a micro-batch's tokens, detached."""

    teacher: str
    loss: float
    num: int
    teacher_kl: float
    entropy: float
    num_cut: float


class MopdTrainer(GspoTrainer):
    """Trains a student by multi-teacher on-policy distillation; see `mopd_loss`.

    Args:
        model: The student, as `GspoTrainer` takes it.
        config: How steps are taken. What it says of objectives, clips and baselines is not used,
            but for `baseline` where there is a `reward_weight`.
        teachers: Name to frozen model, with the student's vocabulary.
        teacher_of: Names the teacher of an attempt; its domain when absent.
        low: Tokens whose ratio to the weights that sampled them is below teach nothing.
        high: Tokens whose ratio is above teach nothing.
        max_gap: Largest size of a token's lesson, in nats.
        reward_weight: What the advantage of the attempt's reward is multiplied with; 0 for none.
        options: Of `GspoTrainer`: `accelerator`, `optimizer`, `send`, `after_step`.

    Raises:
        ValueError: There is no teacher, one has another vocabulary or shares weights with the
            student, a number is out of its range, or `config` has a `kl_coefficient` or a
            `correction`, which have no place here.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        *,
        teachers: Mapping[str, nn.Module],
        teacher_of: Callable[[Any], str] = domain_of,
        low: float = 0.5,
        high: float = 2.0,
        max_gap: float = 20.0,
        reward_weight: float = 0.0,
        **options: Any,
    ) -> None:
        low, high, max_gap = number("low", low), number("high", high), number("max_gap", max_gap)
        reward_weight = number("reward_weight", reward_weight)
        if not 0 <= low <= 1 <= high or not max_gap > 0 or not 0 <= reward_weight < float("inf"):
            raise ValueError(
                "need 0 <= low <= 1 <= high, max_gap > 0 and reward_weight >= 0, got "
                f"{low}, {high}, {max_gap} and {reward_weight}"
            )
        if config.kl_coefficient or config.correction is not None:
            raise ValueError(
                "distillation knows no kl_coefficient and no correction, got "
                f"{config.kl_coefficient} and {config.correction}: teachers and bounds do that"
            )
        _check_teachers(model, teachers)
        super().__init__(model, config, **options)
        self._teacher_of = teacher_of
        self._teachers: dict[str, Predict] = {
            name: self._predictor(teacher.requires_grad_(False).to(self.device).eval())
            for name, teacher in teachers.items()
        }
        self._bounds = {"low": low, "high": high, "max_gap": max_gap}
        self._reward_weight = reward_weight

    def train(self, batch: Sequence[Sample] | Sequence[Attempt]) -> dict[str, float]:
        """Take `epochs` steps on a batch of attempts that the student sampled.

        Returns:
            Metrics of the last step: `teacher_kl`, an estimate of `KL(student || teacher)` in nats
            a token, over all and for each teacher (`teacher_kl/NAME`), `cut_share` of the tokens
            that taught nothing, `entropy`, the batch's mean `reward`, and those of a step.

        Raises:
            ValueError: An attempt has no teacher, or cannot be meant: see `check_samples`.
            FloatingPointError: The loss or a gradient is not finite; the weights are as before.
        """
        began = time.perf_counter()
        samples = as_samples(batch)
        check_batch(samples, self.config, self._plain)
        by_teacher = self._by_teacher(batch, samples)
        rewards = dict(zip(attempt_keys(samples), (s.reward for s in samples), strict=True))
        reward, num_all, num, tokens = self._together.totals(
            sum(rewards.values()), len(rewards),
            sum(one.weight for judged in by_teacher.values() for one in judged),
            sum(len(sample.token_ids) for sample in samples),
        )  # fmt: skip
        metrics: dict[str, float] = {}
        if num:
            with without_chance(self._plain):
                parts = list(self._lay_out(by_teacher))
                missing = self._together.num_missing(len(parts))
                for _ in range(self.config.epochs):
                    metrics = self._distil(parts, num, missing)
            metrics["tokens_per_s"] = tokens / (time.perf_counter() - began)
        self.num_batches += 1
        return metrics | {"reward": reward / num_all, "tokens": tokens,
                          "attempt_tokens": tokens / num_all}  # fmt: skip

    def _by_teacher(
        self, batch: Sequence[Sample] | Sequence[Attempt], samples: Sequence[Sample]
    ) -> dict[str, list[_Judged]]:
        """Sort what has a token to learn by who judges it."""
        found: dict[str, list[_Judged]] = {name: [] for name in self._teachers}
        advantages = [0.0] * len(samples)
        if self._reward_weight:
            advantages = attempt_advantages(samples, baseline=self.config.baseline)
        held = Counter(
            key
            for key, sample in zip(attempt_keys(samples), samples, strict=True)
            if sample.num_learned
        )
        left = iter(zip(samples, attempt_keys(samples), advantages, strict=True))
        for place, attempt in enumerate(batch):
            if isinstance(attempt, Sample):
                raise ValueError(f"a batch must hold attempts with a domain, got Sample at {place}")
            name = self._teacher_of(attempt)
            if name not in found:
                raise ValueError(
                    f"attempt {place} must have one of the teachers {sorted(found)}, got {name!r}"
                )
            for _ in range(max(1, len(attempt.segments))):  # see `as_samples`
                sample, key, advantage = next(left)
                if sample.num_learned:
                    found[name].append(_Judged(sample, 1 / held[key], advantage))
        return found

    def _lay_out(self, by_teacher: Mapping[str, list[_Judged]]) -> Iterator[_Part]:
        """Cut into micro-batches, each judged by its teacher."""
        for name, judged in by_teacher.items():
            size = self.config.micro_batch_tokens
            for batch in micro_batches(judged, lambda one: one.sample, size):
                rows = Rows.of([one.sample for one in batch], self.device)
                with torch.no_grad():
                    teacher_T, _ = self._teachers[name](rows)
                yield _Part(
                    name, rows, torch.tensor([one.weight for one in batch], device=self.device),
                    torch.tensor([one.advantage for one in batch], device=self.device), teacher_T,
                )  # fmt: skip

    def _distil(self, parts: list[_Part], num: float, num_missing: int) -> dict[str, float]:
        with no_gradient_left(self.optimizer):
            seen = [self._judge(part, num) for part in parts]
            for _ in range(num_missing):
                log_probs_T, _ = self._predict(Rows.nothing(self.device))
                self._together.backward(log_probs_T.sum() * 0)
            metrics = self._step(sum(one.loss for one in seen))
        return metrics | (_summary(seen) if seen else {})

    def _judge(self, part: _Part, num: float) -> _Seen:
        """Add a micro-batch's gradients to what is there."""
        rows = part.rows
        log_probs_T, entropy_T = self._predict(rows)
        new_T = log_probs_T.detach()
        if part.old_T is None:  # where the engine told none, ratios begin at 1
            part.old_T = torch.where(rows.has_old_S[rows.sequence_T], rows.old_T, new_T)
        num_here = len(part.weight_S)
        loss, stats = mopd_loss(
            log_probs_T, part.teacher_T, part.old_T, rows.sequence_T, num_sequences=num_here,
            advantage_S=part.advantage_S, reward_weight=self._reward_weight,
            weight_S=part.weight_S, **self._bounds,
        )  # fmt: skip
        loss = loss * (num_here / num)
        self._together.backward(loss)
        tokens_S = torch.bincount(rows.sequence_T, minlength=num_here)
        return _Seen(
            part.teacher, loss.item(), len(new_T), divergence(new_T, part.teacher_T).sum().item(),
            entropy_T.sum().item(), (stats.is_clipped_S * tokens_S).sum().item(),
        )  # fmt: skip


def _summary(seen: Sequence[_Seen]) -> dict[str, float]:
    num = sum(one.num for one in seen)
    metrics = {
        "teacher_kl": sum(one.teacher_kl for one in seen) / num,
        "cut_share": sum(one.num_cut for one in seen) / num,
        "entropy": sum(one.entropy for one in seen) / num,
    }
    for name in dict.fromkeys(one.teacher for one in seen):
        own = [one for one in seen if one.teacher == name]
        kl = sum(one.teacher_kl for one in own) / sum(one.num for one in own)
        metrics[f"teacher_kl/{name}"] = kl
    return metrics


def _check_teachers(model: nn.Module, teachers: Mapping[str, nn.Module]) -> None:
    if not teachers:
        raise ValueError("there must be at least one teacher, got none")
    own = {id(p) for p in model.parameters()}
    for name, teacher in teachers.items():
        if own & {id(p) for p in teacher.parameters()}:
            raise ValueError(
                f"teacher {name!r} must not be trained itself, but shares weights with the student"
            )
        if num_words(teacher) != num_words(model):
            raise ValueError(
                f"teacher {name!r} must have the student's vocabulary of {num_words(model)} "
                f"tokens, has {num_words(teacher)}"
            )
