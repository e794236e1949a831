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

_SHORT_ROW = 64  # columns; below, a call for each row takes longer than what it saves


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
                places, ranks = _ranks(delta.reshape(-1, view.columns))
                chances = _chances(view.columns, density, spread)
                limits = np.minimum(np.ceil(chances.astype(np.float64) * 2.0**32), 2.0**32 - 1)
                words = random_words(key, start, stop)[places]
                delta[places[words >= limits.astype(np.uint32)[ranks]]] = 0
                if self.rescale == "expected":
                    delta[places] /= chances.astype(delta.dtype)[ranks]

        return drop


def _check_reach(density: float, spread: float) -> None:
    if density < 1 and not (density - spread >= 0 and density + spread <= 1):
        raise ValueError(
            f"density - epsilon and density + epsilon must be in [0, 1], got {density} and {spread}"
        )


def _ranks(delta_RC: Array) -> tuple[Array, Array]:
    """Places of the elements that moved, and their ranks in their rows; R rows, C columns.

    The others have the lowest ranks; whether they are dropped makes no difference, so they may be
    among them or not. Equal sizes rank by column.
    """
    moved_RC = delta_RC != 0
    if delta_RC.shape[1] < _SHORT_ROW or 2 * np.count_nonzero(moved_RC) > delta_RC.size:
        return _ranks_of_all(delta_RC)
    return _ranks_of_moved(delta_RC, moved_RC)


def _ranks_of_all(delta_RC: Array) -> tuple[Array, Array]:
    rows, columns = delta_RC.shape
    words = _bits(delta_RC) << np.uint64(32)
    words |= np.arange(delta_RC.size, dtype=np.uint64).reshape(delta_RC.shape)
    words.sort(axis=1)
    words &= np.uint64(0xFFFFFFFF)
    return words.view(np.int64).reshape(-1), np.tile(np.arange(columns), rows)


def _ranks_of_moved(delta_RC: Array, moved_RC: Array) -> tuple[Array, Array]:
    """As above for few: what did not move is not sorted."""
    counts = np.count_nonzero(moved_RC, axis=1)
    places = np.flatnonzero(moved_RC)
    words = _bits(delta_RC.reshape(-1)[places]) << np.uint64(32)
    words |= places.astype(np.uint64)
    ends = np.cumsum(counts)
    for begin, end in zip((ends - counts).tolist(), ends.tolist(), strict=True):
        words[begin:end].sort()  # several times faster than one long sort
    words &= np.uint64(0xFFFFFFFF)
    ranks = np.arange(len(places)) - np.repeat(ends - delta_RC.shape[1], counts)
    return words.view(np.int64), ranks


def _bits(delta: Array) -> Array:
    """The bits of the sizes: they sort as the sizes do."""
    return np.abs(delta).astype(np.float32).view(np.uint32).astype(np.uint64)


def _chances(columns: int, density: float, spread: float) -> Array:
    """Chance to be kept by the rank in a row."""
    if columns == 1:
        return np.full(1, density, np.float32)
    by_rank = (density - spread) + np.arange(columns) * (2 * spread / (columns - 1))
    return by_rank.astype(np.float32)
