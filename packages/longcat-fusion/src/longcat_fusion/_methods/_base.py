"""What a merge method is, and the steps that several methods share."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._select import Rank, Sample, kth_largest
from longcat_fusion._view import ROOM, SAMPLE, UNIT, Apply, Tile, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(abc.ABC):
    """A way to merge one tensor. The fields of a subclass are its settings."""

    name: ClassVar[str]
    pays: ClassVar[str]
    """When the method pays, in a sentence."""
    passes: ClassVar[int] = 1
    """How often the files are read."""
    default_weight: ClassVar[str] = "one"
    """Weight of an expert where none is given: `one`, or `mean` for one over their number."""
    scales: ClassVar[bool] = True
    """Whether the method has a merged task vector that `scale` multiplies."""
    whole: ClassVar[bool] = False
    """Whether the method needs the whole matrix in memory at once."""

    def held_bytes(self, num_experts: int) -> int:
        """Bytes that the method holds for each element of a tile, from one pass to the next."""
        return 0

    @abc.abstractmethod
    def prepare(self, view: View) -> Apply:
        """Take what statistics the method needs; return what merges one tile."""

    def unit(self, view_shape: tuple[int, ...]) -> int:
        """Elements that must lie in one tile together."""
        return UNIT

    def dense(self) -> Self:
        """Give the same method without dropping: for routers, norms and embeddings."""
        return self

    def check_experts(self, count: int) -> None:
        """Refuse a number of experts that the method cannot merge."""
        if count < 1:
            raise ValueError("need at least one expert, got none")


def check_share(name: str, value: float | Sequence[float], *, above_zero: bool = False) -> None:
    """Refuse a share outside [0, 1], or (0, 1]."""
    for number in value if isinstance(value, Sequence) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name} must be a number, got {number!r}")
        if not 0 <= number <= 1 or (above_zero and number == 0):
            raise ValueError(f"{name} must be in {'(' if above_zero else '['}0, 1], got {number}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse what is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def thresholds(
    view: View, measure: Callable[[list[Array]], list[Array]], ranks: Sequence[Sequence[Rank]]
) -> list[list[float]]:
    """Find the k-th largest values of what `measure` makes of the task vectors; see `kth_largest`.

    Holds `threshold_bytes`.
    """
    sample = Sample(lambda: map(measure, view.sample()), view.size, view.room)
    return kth_largest(lambda: map(measure, view.deltas()), ranks, sample)


def threshold_bytes(num_ranks: int, num_streams: int) -> int:
    """Bytes that `thresholds` holds for each element of a tile; each value twice, when joined."""
    return 2 * 4 * (SAMPLE + ROOM * num_ranks) * num_streams


def magnitudes(deltas: list[Array]) -> list[Array]:
    """Turn task vectors into their absolute values."""
    for delta in deltas:
        np.abs(delta, out=delta)
    return deltas


def combine(
    deltas: Sequence[Array], weights: Sequence[float], *, erase: bool, average: bool
) -> Array:
    """Add weighted task vectors, by consensus if asked; the arrays are used up.

    Args:
        deltas: Task vectors, not yet weighted.
        weights: One each.
        erase: Keep of each element only the part with the sign of the weighted sum (TIES, arXiv
            2306.01708, 3.2); where the sum is 0 nothing is kept.
        average: Divide by the sum of the weights, with `erase` of those that were kept there.
    """
    for delta, weight in zip(deltas, weights, strict=True):
        if weight != 1:
            delta *= weight
    total = deltas[0].copy()
    for delta in deltas[1:]:
        total += delta
    if not erase:
        divisor = math.fsum(weights)
        return total / divisor if average and divisor else total
    # Whole arrays times booleans: assignments by a mask take ten times as long.
    positive, is_decided = np.signbit(total), total != 0
    kept_weight = np.zeros_like(total) if average else None
    total[:] = 0
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = np.signbit(delta) == positive
        agrees &= is_decided
        if kept_weight is not None:
            agrees &= delta != 0
            kept_weight += agrees * total.dtype.type(weight)
        delta *= agrees
        total += delta
    if kept_weight is not None:
        kept_weight += kept_weight == 0
        total /= kept_weight
    return total


def onto_base(tile: Tile, merged: Array, scale: float) -> Array:
    """The base plus `scale` times the merged task vector."""
    if scale != 1:
        merged *= scale
    merged += tile.base
    return merged
