"""DARE: drop elements of the task vectors at random, scale up the rest (arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from longcat_fusion._masks import keep_mask
from longcat_fusion._view import Apply, View, per_expert

from ._base import Method, check_choice, check_share, combine, onto_base
from ._rescale import RESCALES, l1_factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Dare(Method):
    """Each element is kept with probability `density`, and divided by it."""

    name: ClassVar[str] = "dare"
    pays: ClassVar[str] = "for supervised experts, most of whose change is redundant; not for RL"
    passes: ClassVar[int] = 2

    density: float | Sequence[float] = 0.9
    rescale: str = "expected"
    erase: bool = False
    """Keep only the elected sign, as TIES does."""
    average: bool = False

    def __post_init__(self) -> None:
        check_share("density", self.density, above_zero=True)
        check_choice("rescale", self.rescale, RESCALES)

    def dense(self) -> Self:
        return replace(self, density=1.0)

    def prepare(self, view: View) -> Apply:
        densities = per_expert(self.density, view.num_experts, "density")
        drops = any(density < 1 for density in densities)
        keys = view.keys("drop") if drops else []

        def drop(start, stop, deltas) -> None:
            for delta, key, density in zip(deltas, keys, densities, strict=True):
                if density < 1:
                    delta *= keep_mask(key, start, stop, density)

        factors = [1.0] * view.num_experts
        if drops and self.rescale == "expected":
            factors = [1 / density for density in densities]
        elif drops and self.rescale == "l1":
            factors = l1_factors(view, drop)

        def apply(tile):
            deltas = tile.deltas()
            if drops:
                drop(tile.start, tile.stop, deltas)
            for delta, factor in zip(deltas, factors, strict=True):
                if factor != 1:
                    delta *= factor
            merged = combine(deltas, view.weights, erase=self.erase, average=self.average)
            return onto_base(tile, merged, view.scale)

        return apply
