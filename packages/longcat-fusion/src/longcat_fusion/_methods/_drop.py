"""Dropping at random, for every method that does: what makes up for it, and what is then merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import UNIT, Apply, Sums, Tile, View

from ._base import combine, onto_base

RESCALES = ("expected", "l1", "none")
"""`expected`: over the probability to be kept. `l1`: to the absolute sum before. `none`: not."""

Drop = Callable[[int, int, Sequence[Array]], None]
"""Zeroes, in the task vectors of the elements `start` to `stop`, what is dropped."""


def merge_dropped(
    view: View, drop: Drop | None, factors: Sequence[float], *, erase: bool, average: bool
) -> Apply:
    """Drop, scale each task vector by its factor, and merge; without `drop` nothing is dropped."""

    def apply(tile: Tile) -> Array:
        deltas = tile.deltas()
        if drop is not None:
            drop(tile.start, tile.stop, deltas)
        for delta, factor in zip(deltas, factors, strict=True):
            if factor != 1:
                delta *= factor
        merged = combine(deltas, view.weights, erase=erase, average=average)
        return onto_base(tile, merged, view.scale)

    return apply


class Remembered:
    """A drop that costs little the second time: it remembers what was left, a bit an element.

    Args:
        drop: What is done the first time, and where there was no room to remember.
        room: Bytes that may be remembered.
    """

    def __init__(self, drop: Drop, room: int) -> None:
        self._drop, self._room = drop, room
        self._left: dict[int, list[Array]] = {}

    def __call__(self, start: int, stop: int, deltas: Sequence[Array]) -> None:
        left = self._left.get(start)
        if left is not None:
            for delta, bits in zip(deltas, left, strict=True):
                delta *= np.unpackbits(bits, count=len(delta)).view(np.bool_)
            return
        self._drop(start, stop, deltas)
        needed = len(deltas) * -(-(stop - start) // 8)
        if needed <= self._room:
            self._room -= needed
            self._left[start] = [np.packbits(delta != 0) for delta in deltas]


def l1_factors(view: View, drop: Drop, unit: int = UNIT) -> list[float]:
    """For each expert, its absolute sum before over the one after `drop`; 1 where either is 0."""
    before, after = Sums(view.num_experts), Sums(view.num_experts)
    for tile in view.tiles(unit):
        deltas = tile.deltas()
        for sums in (before, after):
            for place, delta in enumerate(deltas):
                sums.add(place, np.abs(delta), unit)
            if sums is before:
                drop(tile.start, tile.stop, deltas)
    return [
        full / rest if full and rest else 1.0
        for full, rest in zip(before.totals(), after.totals(), strict=True)
    ]
