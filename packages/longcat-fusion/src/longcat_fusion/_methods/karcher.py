"""Karcher: the mean of the experts' directions on the sphere, with the mean of their norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longcat_fusion._view import Apply, View

from ._base import Method
from ._sphere import gram, karcher_coefficients, mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Karcher(Method):
    """The point with the least mean squared angle to the experts (arXiv 2603.04972)."""

    name: ClassVar[str] = "karcher"
    pays: ClassVar[str] = "for several checkpoints of unlike directions, where a mean would shrink"
    passes: ClassVar[int] = 2
    default_weight: ClassVar[str] = "mean"
    scales: ClassVar[bool] = False

    steps: int = 50
    """Most steps; they are taken on the inner products, so they cost nothing."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")

    def prepare(self, view: View) -> Apply:
        products = gram(view, with_base=False)
        coefficients = karcher_coefficients(products, view.weights, self.steps)
        return lambda tile: mix(tile.experts, coefficients)
