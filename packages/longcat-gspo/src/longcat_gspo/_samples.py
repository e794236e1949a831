"""What a trainer learns from, and how it is laid out in tensors.

Attempts at one task are often the same to the last token. They are computed once, and each counts:
a row is a sequence of tokens, however many samples have it.

Dimension key: S samples of a micro-batch, B different sequences among them, L the longest one,
T learned tokens of all samples, U different places where one stands.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sequence to learn from."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]
    """Which tokens the model wrote and are to be learned. None: the reward counts in its group
    alone."""
    log_probs: Sequence[float] | None = ()
    """Of every token under the weights that sampled it, at the sampling's temperature; 0 where it
    was not sampled. `None`: the trainer computes them, under its weights as the batch begins."""
    reward: float = 0.0
    group: str = ""
    attempt: Hashable = None
    """Samples with the same one are stretches of one attempt, which counts once; `None`: of its
    own."""
    version: int | None = None
    """Batches that the weights that sampled it had been trained on, as `longcat_dora` counts them.
    With it, disagreement of the engine is told apart from what was learned meanwhile."""

    def __post_init__(self) -> None:
        """Take tensors, of any device and precision, as arrays: ids are compared."""
        for name in ("token_ids", "loss_mask", "log_probs"):
            value: Any = getattr(self, name)
            if isinstance(value, Tensor):
                held = value.detach().cpu()
                held = held.float() if held.dtype == torch.bfloat16 else held
                object.__setattr__(self, name, held.numpy())

    @property
    def num_learned(self) -> int:
        """Tokens to learn; the first of a sequence is never predicted."""
        return sum(map(bool, self.loss_mask[1:]))


class Attempt(Protocol):
    """What several stretches of tokens earned together; `longcat_dora.Trajectory` is one."""

    @property
    def group(self) -> str:
        """Attempts that are compared with each other."""
        ...

    @property
    def reward(self) -> float:
        """What it earned."""
        ...

    @property
    def segments(self) -> Sequence[Any]:
        """Each with `token_ids`, `loss_mask` and `log_probs`, as a `Sample` has them."""
        ...


def as_samples(batch: Sequence[Sample] | Sequence[Attempt]) -> list[Sample]:
    """Turn each segment of an attempt into a sample with the attempt's reward; samples stay.

    Raises:
        ValueError: There is something else among them.
    """
    samples: list[Sample] = []
    if not isinstance(batch, Iterable):
        raise ValueError(f"a batch must be a sequence of samples, got {batch!r}")
    for place, item in enumerate(batch):
        if isinstance(item, Sample):
            samples.append(item)
            continue
        if not hasattr(item, "segments"):
            raise ValueError(
                f"a batch must hold samples, or attempts with segments, got {type(item).__name__} "
                f"at {place}"
            )
        attempt = f"#{place}" if len(item.segments) > 1 else None
        if not len(item.segments):  # it said nothing, and counts in its group's mean
            samples.append(_silent(item))
        samples += (
            Sample(
                token_ids=segment.token_ids, loss_mask=segment.loss_mask,
                log_probs=segment.log_probs, reward=item.reward, group=item.group,
                attempt=attempt, version=getattr(item, "version", None),
            )
            for segment in item.segments
        )  # fmt: skip
    return samples


def _silent(attempt: Attempt) -> Sample:
    return Sample(
        token_ids=[], loss_mask=[], log_probs=[], reward=attempt.reward, group=attempt.group,
        version=getattr(attempt, "version", None),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """A micro-batch."""

    ids_BL: Tensor
    real_BL: Tensor
    """1 where a token is, 0 where there is padding."""
    wanted_BL: Tensor
    """Where the next token is to be learned, in any sample; U of them."""
    target_U: Tensor
    """That next token."""
    place_T: Tensor
    """Of a learned token among the U."""
    old_T: Tensor
    """Log-probs of the targets under the weights that sampled them; 0 where none were given."""
    sequence_T: Tensor
    """Its sample."""
    has_old_S: Tensor
    """Whether a sample came with log-probs."""

    @classmethod
    def of(cls, samples: Sequence[Sample], device: torch.device) -> Rows:
        """Lay different sequences side by side."""
        width = max(2, *(len(sample.token_ids) for sample in samples))
        first: dict[bytes, int] = {}
        row_S = [first.setdefault(_tokens(sample), len(first)) for sample in samples]
        shape = len(first), width
        ids, real = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        learned = np.zeros((len(samples), width), dtype=bool)
        old = np.zeros(learned.shape, dtype=np.float32)
        for place, (row, sample) in enumerate(zip(row_S, samples, strict=True)):
            length = len(sample.token_ids)
            ids[row, :length], real[row, :length] = sample.token_ids, 1
            learned[place, :length] = sample.loss_mask
            if sample.log_probs is not None and len(sample.log_probs):
                old[place, :length] = sample.log_probs
        learned[:, 0] = False
        told, wanted = np.roll(learned, -1, axis=1), np.zeros(shape, dtype=bool)
        np.logical_or.at(wanted, row_S, told)
        place_BL = wanted.cumsum().reshape(shape) - 1
        arrays = (
            ids, real, wanted, np.roll(ids, -1, axis=1)[wanted], place_BL[row_S][told],
            old[learned], learned.nonzero()[0],
            np.array([sample.log_probs is not None for sample in samples]),
        )  # fmt: skip
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def spread(self, value_U: Tensor) -> Tensor:
        """Give each learned token what stands at its place, (T,)."""
        if value_U.device.type == "cuda":  # where this adds gradients up in an order of its own:
            return value_U[self.place_T]  # sorted, hence always in the same one
        return value_U.index_select(0, self.place_T)

    @classmethod
    def nothing(cls, device: torch.device) -> Rows:
        """A sequence whose loss is multiplied by 0, for a process that has run out of work."""
        return cls.of([Sample(token_ids=[0, 0], loss_mask=[False, True], log_probs=[0, 0])], device)


def micro_batches(
    items: Sequence[Item], sample: Callable[[Item], Sample], max_tokens: int
) -> list[list[Item]]:
    """Sort by length; cut into as few equal parts as the token limit allows, padding counted.

    Items of the same tokens count once, and stay together.
    """
    if not items:
        return []
    alike: dict[bytes, list[Item]] = {}
    for item in items:
        alike.setdefault(_tokens(sample(item)), []).append(item)
    ordered = sorted(alike.values(), key=lambda held: len(sample(held[0]).token_ids))
    lengths = [len(sample(held[0]).token_ids) for held in ordered]
    num = 1
    while True:
        ends = _equal_parts(lengths, num)
        widest = max((e - s) * lengths[e - 1] for s, e in itertools.pairwise(ends))
        if widest <= max_tokens or num == len(ordered):
            return [[*itertools.chain(*ordered[s:e])] for s, e in itertools.pairwise(ends)]
        num += 1


def _tokens(sample: Sample) -> bytes:
    """Equal where the tokens are."""
    return np.asarray(sample.token_ids, dtype=np.int64).tobytes()


def _equal_parts(lengths: list[int], num: int) -> list[int]:
    """Boundaries of `num` runs, none empty, whose sums are about equal."""
    sums = list(itertools.accumulate(lengths))
    ends = [0]
    for part in range(1, num):
        cut = bisect.bisect_left(sums, sums[-1] * part / num) + 1
        ends.append(min(max(cut, ends[-1] + 1), len(lengths) - num + part))
    return [*ends, len(lengths)]
