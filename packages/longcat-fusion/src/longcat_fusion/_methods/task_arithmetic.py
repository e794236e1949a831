"""Task arithmetic: add the task vectors (arXiv 2212.04089)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from longcat_fusion._view import Apply, View

from ._base import Method, combine, onto_base


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArithmetic(Method):
    """theta_0 + scale * sum_i w_i tau_i."""

    name: ClassVar[str] = "task_arithmetic"
    pays: ClassVar[str] = "when task vectors are nearly orthogonal: what one adds no other takes"

    average: bool = False
    """Divide by the sum of the weights."""

    def prepare(self, view: View) -> Apply:
        def apply(tile):
            merged = combine(tile.deltas(), view.weights, erase=False, average=self.average)
            return onto_base(tile, merged, view.scale)

        return apply
