"""What makes up for elements that were dropped at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import UNIT, Sums, View

RESCALES = ("expected", "l1", "none")
"""`expected`: over the probability to be kept. `l1`: to the absolute sum before. `none`: not."""

Drop = Callable[[int, int, Sequence[Array]], None]
"""Zeroes, in the task vectors of the elements `start` to `stop`, what is dropped."""


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
