"""Slerp: along the great circle between two checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longcat_fusion._view import Apply, View

from ._base import Method, check_share
from ._sphere import gram, mix, slerp_coefficients, vectors_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Slerp(Method):
    """From the base to the one expert, or from the first of two experts to the second."""

    name: ClassVar[str] = "slerp"
    pays: ClassVar[str] = "between two checkpoints whose norms should not shrink in the middle"
    passes: ClassVar[int] = 2
    scales: ClassVar[bool] = False

    t: float = 0.5
    """Share of the way to the second, in [0, 1]."""

    def __post_init__(self) -> None:
        check_share("t", self.t)

    def check_experts(self, count: int) -> None:
        if count not in (1, 2):
            raise ValueError(f"slerp merges the base and one expert, or two experts, got {count}")

    def prepare(self, view: View) -> Apply:
        with_base = view.num_experts == 1
        coefficients = slerp_coefficients(gram(view, with_base=with_base), self.t)
        return lambda tile: mix(vectors_of(tile, with_base=with_base), coefficients)
