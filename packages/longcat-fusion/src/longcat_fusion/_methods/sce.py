"""SCE: select by variance, weigh by energy, erase the minority (FuseChat, arXiv 2408.07990)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Sums, Tile, View

from ._base import Method, check_share, combine, onto_base, threshold_bytes, thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sce(Method):
    """The elements on which the experts differ most are merged, weighted by who moved further.

    Of the elements whose variance over the experts is not 0, the largest `select` are kept. An
    expert's weight is its share of the squared sum of what was kept, times its own weight.
    """

    name: ClassVar[str] = "sce"
    pays: ClassVar[str] = "when experts moved by unlike amounts, and the larger move should count"
    passes: ClassVar[int] = 3

    select: float = 1.0

    def __post_init__(self) -> None:
        check_share("select", self.select)

    def dense(self) -> Self:
        return replace(self, select=1.0)

    def held_bytes(self, num_experts: int) -> int:
        return threshold_bytes(1, 1)

    def prepare(self, view: View) -> Apply:
        threshold = self._threshold(view) if self.select < 1 else 0.0
        sums = Sums(view.num_experts)
        for deltas in view.deltas():
            _select(deltas, threshold)
            for place, delta in enumerate(deltas):
                sums.add(place, delta * delta)
        energies = sums.totals()
        whole = math.fsum(energies)
        shares = [e / whole if whole else 1 / view.num_experts for e in energies]
        weights = [w * share for w, share in zip(view.weights, shares, strict=True)]

        def apply(tile: Tile) -> Array:
            deltas = tile.deltas()
            _select(deltas, threshold)
            # The sign is elected by the task vectors alone; energies weigh what was elected.
            merged = _elected_mean(deltas, weights)
            return onto_base(tile, merged, view.scale)

        return apply

    def _threshold(self, view: View) -> float:
        """The smallest variance that is kept; infinity where none is."""

        def rank(moved: int) -> int:
            return int(self.select * moved)

        return thresholds(view, lambda deltas: [_variance(deltas)], [[rank]])[0][0]


def _variance(deltas: Sequence[Array]) -> Array:
    """Population variance of each element over the experts."""
    mean = deltas[0].copy()
    for delta in deltas[1:]:
        mean += delta
    mean /= len(deltas)
    total, apart = np.zeros_like(mean), np.empty_like(mean)
    for delta in deltas:
        np.subtract(delta, mean, out=apart)
        apart *= apart
        total += apart
    total /= len(deltas)
    return total


def _select(deltas: Sequence[Array], threshold: float) -> None:
    if threshold > 0:
        kept = _variance(deltas) >= threshold
        for delta in deltas:
            delta *= kept


def _elected_mean(deltas: Sequence[Array], weights: Sequence[float]) -> Array:
    total = deltas[0].copy()
    for delta in deltas[1:]:
        total += delta
    positive, undecided = np.signbit(total), total == 0
    for delta in deltas:
        agrees = np.signbit(delta) == positive
        agrees &= ~undecided
        delta *= agrees
    return combine(deltas, weights, erase=True, average=True)
