"""What a batch must be, and what each of its samples is worth.

- An attempt counts once, in its group's baseline and in the mean, whatever its number of segments.
- What cannot be meant is refused before anything is computed, and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ._advantage import Baseline, group_advantages, is_finite
from ._config import TrainerConfig
from ._samples import Attempt, Sample, as_samples

_PER_TOKEN = ("dapo", "triplet")
"""Objectives in which each token counts alike, of whatever segment."""


def attempt_advantages(
    batch: Sequence[Sample] | Sequence[Attempt], *, baseline: Baseline = "mean_std"
) -> list[float]:
    """Return one advantage per sample (segment), formed over the attempts of each group.

    Example:
        >>> def sample(reward, attempt):
        ...     return Sample(token_ids=[1, 2], loss_mask=[0, 1], reward=reward, attempt=attempt)
        >>> attempt_advantages([sample(1.0, "a"), sample(0.0, "b"), sample(0.0, "b")])
        [1.0, -1.0, -1.0]

    Raises:
        ValueError: A reward is not finite, or an attempt's samples differ in reward or group.
    """
    samples = as_samples(batch)
    first: dict[Hashable, Sample] = {}
    keys = attempt_keys(samples)
    for number, (key, sample) in enumerate(zip(keys, samples, strict=True)):
        seen = first.setdefault(key, sample)
        if not is_finite(sample.reward):
            raise ValueError(
                f"sample {number} of group {sample.group!r}: its reward must be finite, "
                f"got {sample.reward!s:.60}"
            )
        if seen.reward != sample.reward:
            raise ValueError(
                f"sample {number}: samples of attempt {sample.attempt!r} must have one reward, got "
                f"{seen.reward} and {sample.reward}"
            )
    values = group_advantages(
        [sample.reward for sample in first.values()],
        [sample.group for sample in first.values()],
        baseline=baseline,
    )
    of = dict(zip(first, values, strict=True))
    return [of[key] for key in keys]


def attempt_keys(samples: Sequence[Sample]) -> list[Hashable]:
    """Say which attempt each sample belongs to; equal keys, one attempt.

    Raises:
        ValueError: A group or an attempt cannot be compared with others.
    """
    for number, sample in enumerate(samples):
        for name, value in (("group", sample.group), ("attempt", sample.attempt)):
            if not isinstance(value, Hashable):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(f"sample {number}: its {name} must be hashable, got {value!r}")
            if isinstance(value, Tensor) or value != value:  # which are alike only to themselves
                raise ValueError(
                    f"sample {number}: its {name} must be a name or a number, got {value!r}"
                )
    return [
        ("alone", number) if sample.attempt is None else (sample.group, sample.attempt)
        for number, sample in enumerate(samples)
    ]


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a batch; several processes add theirs up."""

    samples: float
    attempts: float
    """With a token to learn, as the next four."""
    groups: float
    learned: float
    learned_tokens: float
    signals: float
    reward: float
    """Sum over all attempts, of `all_attempts`."""
    all_attempts: float
    tokens: float

    @classmethod
    def of(cls, samples: Sequence[Sample], advantages: Sequence[float]) -> Counts:
        """Count a process's own samples."""
        keys = attempt_keys(samples)
        rewards = {key: float(sample.reward) for key, sample in zip(keys, samples, strict=True)}
        held = [
            (key, sample, advantage)
            for key, sample, advantage in zip(keys, samples, advantages, strict=True)
            if sample.num_learned
        ]
        return cls(
            samples=len(samples),
            attempts=len({key for key, _, _ in held}),
            groups=len({sample.group for _, sample, _ in held}),
            learned=len(held),
            learned_tokens=sum(sample.num_learned for _, sample, _ in held),
            signals=sum(advantage != 0 for _, _, advantage in held),
            reward=sum(rewards.values()),
            all_attempts=len(rewards),
            tokens=sum(len(sample.token_ids) for sample in samples),
        )

    def metrics(self) -> dict[str, float]:
        """Return what is told of a batch, whether a step was taken or not."""
        return {
            "signal_share": self.signals / self.samples,
            "masked_share": 1 - self.learned / self.samples,
            "reward": self.reward / self.all_attempts,
            "tokens": self.tokens,
            "attempt_tokens": self.tokens / self.all_attempts,
        }


def weighed(
    samples: Sequence[Sample], advantages: Sequence[float], counts: Counts, config: TrainerConfig
) -> list[tuple[Sample, float]]:
    """Return what has a token to learn, each advantage scaled for a mean over all learned samples.

    That mean then is the one over samples, over attempts (each the mean of its segments), or over
    groups (each the mean of its attempts), as `config.weigh` has it.
    """
    held = [
        (key, sample, advantage)
        for key, sample, advantage in zip(attempt_keys(samples), samples, advantages, strict=True)
        if sample.num_learned
    ]
    segments = Counter(key for key, _, _ in held)
    if config.objective in _PER_TOKEN:
        segments = Counter(dict.fromkeys(segments, 1))
    by_group = Counter(group for group in {key: s.group for key, s, _ in held}.values())

    def scale(key: Hashable, sample: Sample) -> float:
        if config.weigh == "samples" or (config.objective == "dapo" and config.weigh != "groups"):
            return 1.0
        if config.weigh == "attempts":
            return counts.learned / (counts.attempts * segments[key])
        return counts.learned / (counts.groups * by_group[sample.group] * segments[key])

    return [(sample, advantage * scale(key, sample)) for key, sample, advantage in held]


def check_tokens(samples: Sequence[Sample], num_words: int | None) -> None:
    """Find tokens that are none: on a GPU they would end the process.

    Args:
        samples: Whose tokens and masks.
        num_words: Of the model, if it says how many.

    Raises:
        ValueError: An id is no whole number of the vocabulary, or a mask is no mask.
    """
    if not isinstance(samples, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a batch must be a sequence of samples, got {samples!r:.80}")
    for number, sample in enumerate(samples):
        if not isinstance(sample, Sample):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"a batch must hold samples, got {type(sample).__name__} at {number}")
        ids, mask = np.asarray(sample.token_ids), np.asarray(sample.loss_mask)
        if ids.ndim != 1 or mask.ndim != 1:
            raise ValueError(
                f"sample {number}: token_ids and loss_mask must have one axis, got the shapes "
                f"{ids.shape} and {mask.shape}"
            )
        if len(ids) != len(mask):
            raise ValueError(
                f"sample {number}: token_ids, loss_mask and log_probs must have one length, got "
                f"{len(ids)} and {len(mask)}"
            )
        most = np.inf if num_words is None else num_words
        if len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= most):
            inside = "not negative" if num_words is None else f"in [0, {num_words})"
            raise ValueError(
                f"sample {number}: token_ids must be whole numbers, {inside}, got "
                f"{sample.token_ids!s:.80}"
            )
        if len(mask) and (mask.dtype.kind not in "biuf" or not ((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"sample {number}: loss_mask must be true or false for each token, got "
                f"{sample.loss_mask!s:.80}"
            )


def check_samples(
    samples: Sequence[Sample], config: TrainerConfig, num_words: int | None = None
) -> None:
    """Find what cannot be trained on.

    Raises:
        ValueError: There is no sample, a token or a mask is none, fields differ in length,
            log-probs are positive or all 0, or nobody said which samples are of one group.
        FloatingPointError: A log-prob is not finite.
    """
    if not samples:
        raise ValueError("a batch must hold at least one sample, got none")
    check_tokens(samples, num_words)
    given: list[np.ndarray] = []
    for number, sample in enumerate(samples):
        num, masks, logs = len(sample.token_ids), len(sample.loss_mask), sample.log_probs
        if num != masks or (logs is not None and len(logs) != num):
            raise ValueError(
                f"sample {number}: token_ids, loss_mask and log_probs must have one length, got "
                f"{num}, {masks}, {'None' if logs is None else len(logs)} "
                "(log_probs=None: computed)"
            )
        if logs is not None:
            if num and (np.ndim(logs) != 1 or np.asarray(logs).dtype.kind not in "fiuO"):
                raise ValueError(f"sample {number}: log_probs must be numbers, got {logs!s:.80}")
            mask = np.asarray(sample.loss_mask, dtype=bool)
            given.append(_learned(number, sample.group, np.asarray(logs, dtype=np.float64)[mask]))
    all_zero = bool(sum(map(len, given))) and not any(map(np.any, given))
    if all_zero and any(sample.reward != samples[0].reward for sample in samples):
        raise ValueError(
            "log_probs must be those of the sampled tokens, got 0 for all; log_probs=None lets the "
            "trainer compute them"
        )
    if config.baseline != "none":
        _check_groups(samples)


def _learned(number: int, group: str, logs: np.ndarray) -> np.ndarray:
    """Check the log-probs of a sample's learned tokens."""
    if not np.isfinite(logs).all():
        raise FloatingPointError(
            f"sample {number} of group {group!r}: log_probs must be finite, got "
            f"{logs[~np.isfinite(logs)][0]}; no step was taken"
        )
    if (logs > 1e-3).any():
        raise ValueError(
            f"sample {number}: log_probs must not be positive, got {logs.max()} (probabilities?)"
        )
    return logs


def _check_groups(samples: Sequence[Sample]) -> None:
    """Without names of groups, all must be attempts at one task: begin alike."""
    forgotten = [number for number, sample in enumerate(samples) if sample.group in ("", None)]
    if forgotten and len(forgotten) < len(samples):
        raise ValueError(f"sample {forgotten[0]} must say its group, as others do")
    if not forgotten:
        return
    firsts = dict(reversed(list(zip(attempt_keys(samples), samples, strict=True))))
    prompts = {_prompt(sample) for sample in firsts.values()}
    if len(prompts) > 1:
        raise ValueError(
            f"samples of {len(prompts)} different prompts must say their group, none does: "
            "attempts at one task share one"
        )


def _prompt(sample: Sample) -> tuple[int, ...]:
    mask = list(map(bool, sample.loss_mask))
    return tuple(sample.token_ids[: mask.index(True)]) if True in mask else ()
