"""DELLA: drop at random, small elements of a row more often than large ones (arXiv 2406.11617)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from longcat_fusion._masks import random_words
from longcat_fusion._numbers import Array
from longcat_fusion._view import REMEMBERED_BYTES, Apply, View, per_expert

from ._base import Method, check_choice, check_share
from ._drop import RESCALES, Drop, Remembered, l1_factors, merge_dropped


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

    def held_bytes(self, num_experts: int) -> int:
        return REMEMBERED_BYTES if self.rescale == "l1" else 0

    def prepare(self, view: View) -> Apply:
        densities = per_expert(self.density, view.num_experts, "density")
        spreads = per_expert(self.epsilon, view.num_experts, "epsilon")
        for density, spread in zip(densities, spreads, strict=True):
            _check_reach(density, spread)
        factors = [1.0] * view.num_experts
        drop = self._drop(view, densities, spreads)
        if drop is not None and self.rescale == "l1":
            drop = Remembered(drop, view.remembered_bytes)
            factors = l1_factors(view, drop, view.columns)
        return merge_dropped(view, drop, factors, erase=self.erase, average=self.average)

    def _drop(
        self, view: View, densities: Sequence[float], spreads: Sequence[float]
    ) -> Drop | None:
        if all(density == 1 for density in densities):
            return None
        keys = view.keys("drop")

        def drop(start: int, stop: int, deltas: Sequence[Array]) -> None:
            for delta, key, density, spread in zip(deltas, keys, densities, spreads, strict=True):
                if density == 1:
                    continue
                order = _in_order_of_size(delta.reshape(-1, view.columns))
                chances = _chances(view.columns, density, spread)
                limits = np.minimum(np.ceil(chances.astype(np.float64) * 2.0**32), 2.0**32 - 1)
                limits = _spread_out(limits.astype(np.uint32), order)
                delta *= random_words(key, start, stop) < limits
                if self.rescale == "expected":
                    delta /= _spread_out(chances.astype(delta.dtype), order)

        return drop


def _check_reach(density: float, spread: float) -> None:
    if density < 1 and not (density - spread >= 0 and density + spread <= 1):
        raise ValueError(
            f"density - epsilon and density + epsilon must be in [0, 1], got {density} and {spread}"
        )


def _in_order_of_size(delta_RC: Array) -> Array:
    """Places of the elements, row after row from the smallest to the largest; R rows, C columns."""
    # Sorting the bits with the place behind them sorts by size, equal ones by column.
    words = np.abs(delta_RC).astype(np.float32).view(np.uint32).astype(np.uint64)
    words <<= np.uint64(32)
    words |= np.arange(delta_RC.size, dtype=np.uint64).reshape(delta_RC.shape)
    words.sort(axis=1)
    words &= np.uint64(0xFFFFFFFF)
    return words.view(np.int64).reshape(-1)


def _chances(columns: int, density: float, spread: float) -> Array:
    """Chance to be kept by the rank in a row."""
    if columns == 1:
        return np.full(1, density, np.float32)
    by_rank = (density - spread) + np.arange(columns) * (2 * spread / (columns - 1))
    return by_rank.astype(np.float32)


def _spread_out(by_rank_C: Array, order: Array) -> Array:
    """Give each element what its rank in its row has."""
    found = np.empty(order.size, by_rank_C.dtype)
    found[order] = np.tile(by_rank_C, order.size // by_rank_C.size)
    return found
