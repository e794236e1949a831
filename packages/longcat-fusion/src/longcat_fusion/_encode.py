"""How merged values become stored bytes: plainly, or as FP8 with a scale for each block."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ._masks import random_words
from ._numbers import FP8_MAX, Array, bf16_bytes, decode, encode, round_to_bf16
from ._sources import BlockScaled
from ._view import Tile


class Encoder(Protocol):
    """Turns tiles into bytes."""

    unit: int
    """Elements that must be encoded together."""

    def encode(self, start: int, values: Array, base: Array) -> tuple[Array, Array]:
        """Bytes of the elements from `start`, and the values that they stand for."""
        ...


class Plain:
    """One dtype for all; rounded to nearest, or stochastically by a key."""

    def __init__(self, dtype: str, noise_key: int | None = None) -> None:
        self.dtype, self.unit = dtype, 1
        self._noise_key = noise_key if dtype == "BF16" else None

    def encode(self, start: int, values: Array, base: Array) -> tuple[Array, Array]:
        noise = None
        if self._noise_key is not None:
            noise = random_words(self._noise_key, start, start + len(values))
        if self.dtype == "BF16":  # most checkpoints: the values come before the bytes
            stored = round_to_bf16(values, noise)
            return bf16_bytes(stored), stored
        raw = encode(values, self.dtype)
        return raw, decode(raw, self.dtype)


class Blocks:
    """FP8 with one scale for each block.

    A block keeps the base's scale while its largest value uses more than half of the range, or
    all its values are exact under it: what no expert moved then keeps its bytes.
    """

    def __init__(self, base: BlockScaled, dtype: str, scale_dtype: str) -> None:
        self.dtype, self.scale_dtype = dtype, scale_dtype
        self._base = base
        self.unit = base.block[0] * base.columns
        self.scales = base.scales.copy()

    def encode(self, start: int, values: Array, base: Array) -> tuple[Array, Array]:
        down, across = self._base.block
        columns = self._base.columns
        first = start // columns // down
        value_RC = np.ascontiguousarray(values, np.float32).reshape(-1, columns)
        count = -(-len(value_RC) // down)
        old = self._base.scales[first : first + count]
        largest = _block_max(np.abs(value_RC), down, across)
        top = np.float32(FP8_MAX[self.dtype])
        spread = self._base.spread
        wide = spread(self._base.scales, start, start + len(values))
        exact_RC = self._round(values, wide).reshape(value_RC.shape) == value_RC
        is_exact = _block_max((~exact_RC).astype(np.float32), down, across) == 0
        keeps = (largest <= top * old) & (is_exact | (2 * largest > top * old))
        wanted = np.where(largest > 0, largest / top, np.float32(1))
        fresh = decode(encode(wanted, self.scale_dtype), self.scale_dtype).reshape(wanted.shape)
        fresh = np.where(fresh > 0, fresh, np.float32(1))
        self.scales[first : first + count] = np.where(keeps | (largest == 0), old, fresh)
        wide = spread(self.scales, start, start + len(values))
        raw = encode(values / wide, self.dtype)
        return raw, decode(raw, self.dtype) * wide

    def _round(self, values: Array, wide: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return decode(encode(values / wide, self.dtype), self.dtype) * wide

    def scale_bytes(self) -> Array:
        """Bytes of the scales, after all tiles were encoded."""
        return encode(self.scales.reshape(-1), self.scale_dtype)


def _block_max(value_RC: Array, down: int, across: int) -> Array:
    rows, columns = value_RC.shape
    by_row = np.maximum.reduceat(value_RC, np.arange(0, columns, across), axis=1)
    return np.maximum.reduceat(by_row, np.arange(0, rows, down), axis=0)


def refuse_not_finite_result(tile: Tile, stored: Array, name: str, dtype: str) -> None:
    """Refuse a result that its dtype cannot hold.

    Raises:
        ValueError: An element became infinite; the message names it.
    """
    finite = np.isfinite(stored)
    if not finite.all():
        index = tile.start + int(np.argmin(finite))
        raise ValueError(f"{name}: the merged element {index} does not fit into {dtype}")
