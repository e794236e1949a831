"""Methods that need a whole matrix: they say what memory they take, and merge it at once."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longcat_fusion._kinds import kind_of
from longcat_fusion._numbers import Array
from longcat_fusion._view import Apply, Tile, View

from ._base import Method, combine, onto_base


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixMethod(Method):
    """Merges the task matrices of a layer; averages embeddings, heads, norms and vectors."""

    passes: ClassVar[int] = 2
    whole: ClassVar[bool] = True

    @abc.abstractmethod
    def merge_matrices(self, deltas: Sequence[Array], weights: Sequence[float]) -> Array:
        """Merge task matrices, which may be changed."""

    def prepare(self, view: View) -> Apply:
        if not is_layer_matrix(view.name, view.shape):
            return lambda tile: onto_base(
                tile, combine(tile.deltas(), view.weights, erase=False, average=True), view.scale
            )
        matrices = [np.empty(view.size, np.float32) for _ in range(view.num_experts)]
        place = 0
        for deltas in view.deltas():
            for matrix, delta in zip(matrices, deltas, strict=True):
                matrix[place : place + len(delta)] = delta
            place += len(deltas[0])
        merged = self.merge_matrices([m.reshape(view.shape) for m in matrices], view.weights)
        flat = merged.reshape(-1)

        def apply(tile: Tile) -> Array:
            return onto_base(tile, flat[tile.start : tile.stop].copy(), view.scale)

        return apply


def is_layer_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the tensor is a matrix of a layer, as the spectral methods mean it."""
    return len(shape) == 2 and min(shape) > 1 and kind_of(name) not in ("embedding", "head", "norm")


def matrix_bytes(shape: tuple[int, ...], num_experts: int) -> int:
    """Memory that merging one matrix takes: the task matrices, and an SVD with its workspace."""
    rows, columns = shape
    least = min(rows, columns)
    svd = 4 * (2 * rows * columns + least * (rows + columns) + 8 * least * least)
    return 4 * rows * columns * (2 * num_experts + 2) + svd
