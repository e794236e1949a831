"""Iso-C: the sum of the task matrices with all singular values made equal (arXiv 2502.04959)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longcat_fusion._numbers import Array

from ._matrix import MatrixMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoC(MatrixMethod):
    """U diag(mean of s) V^T, from the SVD U diag(s) V^T of the sum of the task matrices."""

    name: ClassVar[str] = "iso_c"
    pays: ClassVar[str] = "for many experts of which a few drown the directions of the others"

    def merge_matrices(self, deltas: Sequence[Array], weights: Sequence[float]) -> Array:
        total = sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
        left, values, right = np.linalg.svd(np.asarray(total), full_matrices=False)
        # Directions that no expert moved have no direction: rounding would choose one.
        floor = values[0] * max(deltas[0].shape) * np.finfo(np.float32).eps
        used = values > floor
        return (
            (left[:, used] * values[used].mean(dtype=np.float64).astype(np.float32)) @ right[used]
            if used.any()
            else np.zeros_like(deltas[0])
        )
