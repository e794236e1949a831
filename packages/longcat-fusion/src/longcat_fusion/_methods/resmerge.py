"""ResMerge: merge the residuals on the sphere, then add back agreed heads (arXiv 2606.02252).

Each task matrix is split by SVD into its `rank` leading parts H_i (the head) and the rest R_i.

    q = normalised sum of R_i / |R_i|,   c = mean cos(R_i, q),   s = mean pairwise cos(R_i, R_j)
    beta = beta_max - (beta_max - beta_min) * ((s + 1) / 2 + (c + 1) / 2) / 2
    A = c^beta * mean |R_i| * q;   the mean of R_i where c is not above 1 / sqrt(n)
    C = budget * mean max(0, cos(H_i, H_j)) * |A| * H / |H|,   H the mean of H_i
    theta_0 + A + C

Formulas from the authors' description and their published script (sunyd0303-cpu/ResMerge-release).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from longcat_fusion._numbers import Array

from ._base import check_share
from ._matrix import MatrixMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class ResMerge(MatrixMethod):
    """Residual consensus plus a head correction. Weights are not used: all experts count alike."""

    name: ClassVar[str] = "resmerge"
    pays: ClassVar[str] = "for RL experts, whose leading singular directions conflict"

    rank: int = 1
    beta_min: float = 0.7
    beta_max: float = 1.0
    budget: float = 0.2

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be 1 or more, got {self.rank}")
        if not 0 <= self.beta_min <= self.beta_max:
            raise ValueError(
                f"need 0 <= beta_min <= beta_max, got {self.beta_min}, {self.beta_max}"
            )
        check_share("budget", self.budget)

    def merge_matrices(self, deltas: Sequence[Array], weights: Sequence[float]) -> Array:
        if any(weight != weights[0] for weight in weights):
            raise ValueError(f"resmerge counts all experts alike: weights must be equal, {weights}")
        heads = [_head(delta, self.rank) for delta in deltas]
        for delta, head in zip(deltas, heads, strict=True):
            delta -= head
        backbone = self._consensus(deltas)
        moved = [head for head in heads if head.any()]
        agreement = _mean_cosine(moved, lambda cosine: max(0.0, cosine))
        head = _mean(heads)
        length = _norm(head)
        if length > 0:
            backbone += head * np.float32(self.budget * agreement * _norm(backbone) / length)
        return backbone

    def _consensus(self, residuals: Sequence[Array]) -> Array:
        norms = [_norm(residual) for residual in residuals]
        directions = [
            r * np.float32(1 / norm) for r, norm in zip(residuals, norms, strict=True) if norm > 0
        ]
        if not directions:
            return np.zeros_like(residuals[0])
        total = _mean(directions)
        length = _norm(total)
        coherence = min(1.0, length)  # the mean of cos(q_i, q) is the length of the mean of q_i
        coherence *= len(directions) / len(residuals)
        if length == 0 or coherence <= 1 / math.sqrt(len(residuals)):
            return _mean(residuals)
        pairs = _mean_cosine(residuals, lambda cosine: cosine)
        score = ((pairs + 1) / 2 + (coherence + 1) / 2) / 2
        beta = self.beta_max - (self.beta_max - self.beta_min) * score
        size = coherence**beta * math.fsum(norms) / len(norms)
        return total * np.float32(size / length)


def _head(delta: Array, rank: int) -> Array:
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def _norm(matrix: Array) -> float:
    return math.sqrt(float(np.square(matrix, dtype=np.float64).sum()))


def _mean(matrices: Sequence[Array]) -> Array:
    total = matrices[0].copy()
    for matrix in matrices[1:]:
        total += matrix
    total /= len(matrices)
    return total


def _mean_cosine(matrices: Sequence[Array], of: Callable[[float], float]) -> float:
    """Mean over pairs of a function of their cosine; 1 for a single matrix, 0 for zero ones."""
    norms = [_norm(matrix) for matrix in matrices]
    found = [
        of(float(np.vdot(matrices[i], matrices[j])) / (norms[i] * norms[j]))
        if norms[i] and norms[j]
        else 0.0
        for i, j in combinations(range(len(matrices)), 2)
    ]
    return math.fsum(found) / len(found) if found else 1.0
