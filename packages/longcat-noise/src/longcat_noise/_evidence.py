"""Evidence about the mean of a stream of paired differences, from trials looked at in turn.

A trial asks whether the mean is below a bound. It has `LOOKS` looks, evenly spaced; at look k the
standardised distance must be at least C sqrt(LOOKS / k) (O'Brien and Fleming's boundary). A trial
that ends undecided gives way to the next one, which begins anew: policies learn.

Spending of `alpha`, the share of streams with a mean at the bound that ever pass, however long:
the first trial has 4/5, the j-th (from the second on) 1 / (5 j (j - 1)); together all of it.

C is `STRETCH` times the normal quantile of the trial's share, which covers five looks for every
share up to 0.045 (the tests derive the probability of passing a second time) and leaves room for
skew: differences of pass rates near 1 lie to one side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

LOOKS = 5
STRETCH = 1.1
PRIOR_PAIRS = 5.0
"""Pairs' worth of belief in `PRIOR_VARIANCE`: no variance is taken to be 0."""
PRIOR_VARIANCE = 0.35
"""Variance of the difference of two independent outcomes with a pass rate near 0.8."""


@dataclass(slots=True)
class Trials:
    """Trials of whether a mean is below a bound.

    Args:
        bound: The mean that a false pass has.
        alpha: Share of false passes, in all.
        pairs: Length of a trial.
    """

    bound: float
    alpha: float
    pairs: int
    nth: int = 1
    """Number of the present trial."""
    num: int = 0
    """Differences seen in the present trial."""
    total: float = 0.0
    square: float = 0.0
    num_in_all: int = 0
    has_passed: bool = False
    """Whether the present trial has passed at one of its looks."""

    @property
    def share(self) -> float:
        """What the present trial spends."""
        return self.alpha * (0.8 if self.nth == 1 else 0.2 / (self.nth * (self.nth - 1)))

    def see(self, difference: float) -> None:
        """Take a difference in [-1, 1]; look, if it is time to."""
        if self.num == self.pairs:
            self.nth, self.num, self.total, self.square = self.nth + 1, 0, 0.0, 0.0
            self.has_passed = False
        self.num += 1
        self.num_in_all += 1
        self.total += difference
        self.square += difference * difference
        look = self.num * LOOKS / self.pairs
        if look == int(look) and self.distance() >= self.needed(look):
            self.has_passed = True

    def distance(self) -> float:
        """Return how far the mean lies below the bound, in standard errors.

        The spread is taken about the bound: about the mean it would shrink with it, as that of
        rates near 1 does, and pass too often.
        """
        mean = self.total / self.num
        away = self.square - 2 * self.bound * self.total + self.num * self.bound * self.bound
        spread = away + PRIOR_PAIRS * PRIOR_VARIANCE
        variance = spread / (self.num + PRIOR_PAIRS)
        return (self.bound - mean) * math.sqrt(self.num / variance)

    def needed(self, look: float) -> float:
        """Return the distance that passes at a look, from 1 to `LOOKS`."""
        quantile = NormalDist().inv_cdf(1 - self.share)
        return STRETCH * quantile * math.sqrt(LOOKS / look)

    def state(self) -> dict[str, Any]:
        """Return what `read` needs, JSON-able."""
        return {"nth": self.nth, "num": self.num, "total": self.total, "square": self.square,
                "num_in_all": self.num_in_all, "alpha": self.alpha,
                "has_passed": self.has_passed}  # fmt: skip

    def read(self, state: Mapping[str, Any]) -> None:
        """Return to a state."""
        self.nth, self.num = int(state["nth"]), min(int(state["num"]), self.pairs)
        self.total, self.square = float(state["total"]), float(state["square"])
        self.num_in_all, self.alpha = int(state["num_in_all"]), float(state["alpha"])
        self.has_passed = bool(state["has_passed"])
