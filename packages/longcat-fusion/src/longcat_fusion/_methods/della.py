"""DELLA: drop at random, small elements of a row more often than large ones (arXiv 2406.11617)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from longcat_fusion._masks import random_words
from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, View, per_expert

from ._base import Method, check_choice, check_share, combine, onto_base
from ._rescale import RESCALES, l1_factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Della(Method):
    """In each row the chance to be kept rises with the rank, from density - epsilon by 2 epsilon.

    Elements of equal size are ranked by their column.
    """

    name: ClassVar[str] = "della"
    pays: ClassVar[str] = "as DARE, where large changes carry more than small ones"
    passes: ClassVar[int] = 3

    density: float | Sequence[float] = 0.7
    epsilon: float | Sequence[float] = 0.15
    rescale: str = "l1"
    erase: bool = True
    average: bool = True

    def __post_init__(self) -> None:
        check_share("density", self.density, above_zero=True)
        check_share("epsilon", self.epsilon)
        check_choice("rescale", self.rescale, RESCALES)
        if isinstance(self.density, int | float) and isinstance(self.epsilon, int | float):
            _check_reach(self.density, self.epsilon)

    def dense(self) -> Self:
        return replace(self, density=1.0)

    def unit(self, view_shape: tuple[int, ...]) -> int:
        return max(1, view_shape[-1]) if view_shape else 1

    def prepare(self, view: View) -> Apply:
        densities = per_expert(self.density, view.num_experts, "density")
        spreads = per_expert(self.epsilon, view.num_experts, "epsilon")
        for density, spread in zip(densities, spreads, strict=True):
            _check_reach(density, spread)
        drops = any(density < 1 for density in densities)
        keys = view.keys("drop") if drops else []
        expected = self.rescale == "expected"

        def drop(start, stop, deltas) -> None:
            for delta, key, density, spread in zip(deltas, keys, densities, spreads, strict=True):
                if density < 1:
                    chances = _chances(delta.reshape(-1, view.columns), density, spread)
                    words = random_words(key, start, stop)
                    delta *= words < np.minimum(chances * 2.0**32, 2.0**32 - 1)
                    if expected:
                        delta /= chances.astype(delta.dtype)

        factors = [1.0] * view.num_experts
        if drops and self.rescale == "l1":
            factors = l1_factors(view, drop, view.columns)

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


def _check_reach(density: float, spread: float) -> None:
    if density < 1 and not (density - spread >= 0 and density + spread <= 1):
        raise ValueError(
            f"density - epsilon and density + epsilon must be in [0, 1], got {density} and {spread}"
        )


def _chances(delta_RC: Array, density: float, spread: float) -> Array:
    """Chance of each element to be kept, flat; R rows, C columns."""
    columns = delta_RC.shape[1]
    if columns == 1:
        return np.full(delta_RC.size, density)
    # Sorting the bits with the column behind them sorts by size, equal ones by column.
    words = np.abs(delta_RC).astype(np.float32).view(np.uint32).astype(np.uint64)
    words <<= np.uint64(32)
    words |= np.arange(columns, dtype=np.uint64)
    words.sort(axis=1)
    order = (words & np.uint64(0xFFFFFFFF)).astype(np.int64)
    by_rank = (density - spread) + np.arange(columns) * (2 * spread / (columns - 1))
    chances = np.empty(delta_RC.shape, np.float32)
    np.put_along_axis(chances, order, by_rank.astype(np.float32)[None], axis=1)
    return chances.reshape(-1).astype(np.float64)
