"""Linear: the weighted mean of the experts (model soups, arXiv 2203.05482)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Tile, View

from ._base import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Method):
    """sum_i w_i theta_i / sum_i w_i; the base gives names and shapes, not values."""

    name: ClassVar[str] = "linear"
    pays: ClassVar[str] = "when the experts are runs of one training: noise averages out"
    default_weight: ClassVar[str] = "mean"
    scales: ClassVar[bool] = False

    average: bool = True
    """Divide by the sum of the weights."""

    def prepare(self, view: View) -> Apply:
        divisor = math.fsum(view.weights) if self.average else 1.0
        if divisor == 0:
            raise ValueError(f"the weights must not add up to 0 to average, got {view.weights}")
        factors = [weight / divisor for weight in view.weights]
        if self.average and len(set(factors)) == 1:
            return lambda tile: _mean(tile.experts)
        return lambda tile: _weighted(tile, factors)


def _weighted(tile: Tile, factors: Sequence[float]) -> Array:
    total = tile.experts[0]
    total *= factors[0]
    for values, factor in zip(tile.experts[1:], factors[1:], strict=True):
        values *= factor
        total += values
    return total


def _mean(experts: Sequence[Array]) -> Array:
    """Add first: thirds of each would be rounded before they are added."""
    try:
        with np.errstate(over="raise"):
            total = _sum(experts)
            total /= len(experts)
            return total
    except FloatingPointError:  # sums that float32 cannot hold, of values that it can
        with np.errstate(over="ignore"):
            plain = _sum(experts) / len(experts)
        exact = np.mean([values.astype(np.longdouble) for values in experts], axis=0)
        return np.where(np.isfinite(plain), plain, exact).astype(plain.dtype)


def _sum(experts: Sequence[Array]) -> Array:
    total = experts[0].copy()
    for values in experts[1:]:
        total += values
    return total
