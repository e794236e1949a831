"""DARE: drop elements of the task vectors at random, scale up the rest (arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from longcat_fusion._masks import keep_mask
from longcat_fusion._numbers import Array
from longcat_fusion._view import REMEMBERED_BYTES, Apply, View, per_expert

from ._base import Method, check_choice, check_share
from ._drop import RESCALES, Drop, Remembered, l1_factors, merge_dropped


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

    def held_bytes(self, num_experts: int) -> int:
        return REMEMBERED_BYTES if self.rescale == "l1" else 0

    def prepare(self, view: View) -> Apply:
        densities = per_expert(self.density, view.num_experts, "density")
        factors = [1.0] * view.num_experts
        drop = self._drop(view, densities)
        if drop is not None and self.rescale == "expected":
            factors = [1 / density for density in densities]
        elif drop is not None and self.rescale == "l1":
            drop = Remembered(drop, view.remembered_bytes)
            factors = l1_factors(view, drop)
        return merge_dropped(view, drop, factors, erase=self.erase, average=self.average)

    def _drop(self, view: View, densities: Sequence[float]) -> Drop | None:
        if all(density == 1 for density in densities):
            return None
        keys = view.keys("drop")

        def drop(start: int, stop: int, deltas: Sequence[Array]) -> None:
            for delta, key, density in zip(deltas, keys, densities, strict=True):
                if density < 1:
                    delta *= keep_mask(key, start, stop, density)

        return drop
