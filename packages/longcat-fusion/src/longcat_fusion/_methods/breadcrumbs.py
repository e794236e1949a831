"""Model breadcrumbs: drop the outliers and the small changes (arXiv 2312.06795)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Tile, View, per_expert

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
class Breadcrumbs(Method):
    """The largest `gamma` of each task vector are dropped, and of the rest all but `density`.

    `density` counts against the whole tensor. Where both together pass 1, fewer outliers fall.
    Elements as large as the smallest outlier fall with it; as large as the smallest kept, stay.
    """

    name: ClassVar[str] = "breadcrumbs"
    pays: ClassVar[str] = "when single weights ran away in training"
    passes: ClassVar[int] = 2

    density: float | Sequence[float] = 0.9
    gamma: float | Sequence[float] = 0.01
    erase: bool = False
    average: bool = False

    def __post_init__(self) -> None:
        check_share("density", self.density)
        check_share("gamma", self.gamma)

    def dense(self) -> Self:
        return replace(self, density=1.0)

    def held_bytes(self, num_experts: int) -> int:
        return threshold_bytes(2, num_experts)

    def prepare(self, view: View) -> Apply:
        densities = per_expert(self.density, view.num_experts, "density")
        gammas = per_expert(self.gamma, view.num_experts, "gamma")
        ranks = [
            _ranks(view.size, density, gamma)
            for density, gamma in zip(densities, gammas, strict=True)
        ]
        cuts = [density < 1 for density in densities]
        bounds = [[0.0, float("inf")]] * view.num_experts
        if any(cuts):
            bounds = thresholds(view, magnitudes, ranks)

        def apply(tile: Tile) -> Array:
            deltas = tile.deltas()
            for delta, (least, outlier), cut in zip(deltas, bounds, cuts, strict=True):
                if cut:
                    size = np.abs(delta)
                    kept = size >= least
                    kept &= size < outlier
                    delta *= kept
            merged = combine(deltas, view.weights, erase=self.erase, average=self.average)
            return onto_base(tile, merged, view.scale)

        return apply


def _ranks(size: int, density: float, gamma: float) -> list[int]:
    """Ranks, from the largest, of the smallest element kept and of the smallest outlier."""
    kept = int(density * size)
    outliers = min(int(gamma * size), size - kept)
    return [kept + outliers if kept else 0, outliers]
