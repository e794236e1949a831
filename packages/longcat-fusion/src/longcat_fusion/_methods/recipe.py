"""The LongCat recipe: normalise, drop, erase, merge (LongCat-Flash-Thinking report, 3.4.2).

1. normalise   scale each task vector to the mean norm of its tensor over the experts that moved it
2. drop        keep each element with probability 1 - drop, scaled by 1 / (1 - drop)  (DARE)
3. erase       per element, keep only the sign with the larger total                  (SCE, TIES)
4. merge       theta_0 + scale * sum_i w_i tau_i; weights 1 add, weights 1/n average

The report gives the steps and their order. Norms by tensor, the Euclidean norm, the drop rate and
the weights are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from longcat_fusion._masks import keep_mask
from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Tile, View, squared_norms

from ._base import Method, combine, onto_base


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Method):
    """Normalise, drop, erase, merge."""

    name: ClassVar[str] = "recipe"
    pays: ClassVar[str] = "for RL experts of unlike strength, as the report's own"
    passes: ClassVar[int] = 2

    normalise: bool = True
    drop: float = 0.1
    """Share of elements dropped from each task vector."""
    erase: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.drop, bool | str) or not 0 <= self.drop < 1:
            raise ValueError(f"drop must be in [0, 1), got {self.drop}")

    def dense(self) -> Self:
        return replace(self, drop=0.0)

    def prepare(self, view: View) -> Apply:
        factors = _even_out(squared_norms(view)) if self.normalise else [1.0] * view.num_experts
        keys = view.keys("drop") if self.drop else []
        keep = 1 - self.drop

        def apply(tile: Tile) -> Array:
            deltas = tile.deltas()
            for place, delta in enumerate(deltas):
                if self.drop:
                    delta *= keep_mask(keys[place], tile.start, tile.stop, keep)
                if factors[place] != keep:
                    delta *= factors[place] / keep
            merged = combine(deltas, view.weights, erase=self.erase, average=False)
            return onto_base(tile, merged, view.scale)

        return apply


def _even_out(squares: list[float]) -> list[float]:
    norms = [math.sqrt(square) for square in squares]
    moved = [norm for norm in norms if norm > 0]
    mean = math.fsum(moved) / len(moved) if moved else 0.0
    return [mean / norm if norm > 0 else 1.0 for norm in norms]
