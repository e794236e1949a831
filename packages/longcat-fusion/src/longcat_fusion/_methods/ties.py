"""TIES: trim small changes, elect a sign, merge those that agree (arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Tile, View, per_expert, share_count

from ._base import (
    Method,
    check_share,
    combine,
    magnitudes,
    onto_base,
    threshold_bytes,
    thresholds,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties(Method):
    """Of each task vector the largest `density` of the tensor's elements are kept.

    Elements as large as the smallest one kept are kept too, as in the authors' code.
    """

    name: ClassVar[str] = "ties"
    pays: ClassVar[str] = "when experts moved many weights a little and a few weights far"
    passes: ClassVar[int] = 2

    density: float | Sequence[float] = 0.2
    average: bool = True
    """Divide by the weights of the experts that agree."""

    def __post_init__(self) -> None:
        check_share("density", self.density)

    def dense(self) -> Self:
        return replace(self, density=1.0)

    def held_bytes(self, num_experts: int) -> int:
        return threshold_bytes(1, num_experts)

    def prepare(self, view: View) -> Apply:
        densities = per_expert(self.density, view.num_experts, "density")
        ranks = [[share_count(density, view.size)] for density in densities]
        if all(density == 1 for density in densities):
            least = [0.0] * view.num_experts
        else:
            least = [found[0] for found in thresholds(view, magnitudes, ranks)]

        def apply(tile: Tile) -> Array:
            deltas = tile.deltas()
            for delta, threshold in zip(deltas, least, strict=True):
                if threshold > 0:
                    delta *= np.abs(delta) >= threshold
            merged = combine(deltas, view.weights, erase=True, average=self.average)
            return onto_base(tile, merged, view.scale)

        return apply
