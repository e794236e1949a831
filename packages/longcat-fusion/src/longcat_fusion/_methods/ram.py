"""RAM: average where several experts moved, keep what one alone moved (arXiv 2601.13572)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Tile, View

from ._base import Method, onto_base


@dataclass(frozen=True, slots=True, kw_only=True)
class Ram(Method):
    """Per element: the mean of the experts that moved it by more than `threshold`.

    With `boost`, an expert's lone changes are scaled by 1 + boost * min(shared / lone, limit), its
    counts of shared and lone elements of this tensor: RAM+ by tensor.
    """

    name: ClassVar[str] = "ram"
    pays: ClassVar[str] = "for RL experts: sparse changes that rarely meet are not thinned out"

    threshold: float = 0.0
    boost: float = 0.0
    limit: float = 0.2

    def __post_init__(self) -> None:
        for name in ("threshold", "boost", "limit"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def prepare(self, view: View) -> Apply:
        boosts = self._boosts(view) if self.boost else [1.0] * view.num_experts

        def apply(tile: Tile) -> Array:
            deltas = tile.deltas()
            moved, count = self._moved(deltas)
            lone = count == 1
            divisor = np.maximum(count, 1).astype(deltas[0].dtype)
            total = np.zeros_like(deltas[0])
            for delta, moves, weight, boost in zip(
                deltas, moved, view.weights, boosts, strict=True
            ):
                delta *= moves
                if weight != 1:
                    delta *= weight
                if boost != 1:
                    np.multiply(delta, boost, out=delta, where=lone)
                total += delta
            total /= divisor
            return onto_base(tile, total, view.scale)

        return apply

    def _moved(self, deltas: Sequence[Array]) -> tuple[list[Array], Array]:
        moved = [np.abs(delta) > self.threshold for delta in deltas]
        count = np.zeros(len(deltas[0]), np.uint16)
        for moves in moved:
            count += moves
        return moved, count

    def _boosts(self, view: View) -> list[float]:
        shared, lone = [0] * view.num_experts, [0] * view.num_experts
        for deltas in view.deltas():
            moved, count = self._moved(deltas)
            for place, moves in enumerate(moved):
                shared[place] += int(np.count_nonzero(moves & (count > 1)))
                lone[place] += int(np.count_nonzero(moves & (count == 1)))
        return [
            1 + self.boost * min(both / max(alone, 1), self.limit)
            for both, alone in zip(shared, lone, strict=True)
        ]
