"""Where the numbers of one tensor of one checkpoint come from, read a range at a time.

A source gives float32 values of elements `start` to `stop`, counted row by row, whatever form they
are stored in:

    Stored       one tensor of a file, or of memory
    BlockScaled  FP8 values times the scales of their blocks
    Adapted      a base's values plus B A alpha / r of a LoRA adapter
    Extended     a shorter tensor, with the rows that it lacks taken from elsewhere

What always holds: the values of a range do not depend on which range was asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ._headers import ITEM_BYTES, Entry
from ._numbers import Array, decode, first_not_finite

_ADAPTER_ROWS = 64  # a product is computed in the same blocks of rows whatever is asked for


class Source(Protocol):
    """Values of one tensor, by range of elements."""

    shape: tuple[int, ...]
    watching: int
    """1: refuse values that are not finite. 2: feed the bytes that are read to `digest` as well."""

    def read(self, start: int, stop: int) -> Array:
        """Values of the elements `start` to `stop`, in an array that the caller may change."""
        ...

    def digest(self) -> str:
        """SHA-256 of what was read while `watching` was 2, which was all of it in order."""
        ...

    def close(self) -> None:
        """Give back files."""
        ...


class Stored:
    """One tensor as it is stored: in a file, or in memory."""

    def __init__(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        *,
        owner: str,
        file: Path | None = None,
        begin: int = 0,
        memory: Array | None = None,
    ) -> None:
        self.name, self.dtype, self.shape, self.owner = name, dtype, shape, owner
        self.watching = 0
        self._begin, self._memory = begin, memory
        self._item_bytes = ITEM_BYTES[dtype]
        self._hash = hashlib.sha256(f"{dtype} {list(shape)}\n".encode())
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if file is not None else -1
        self._path = file

    @classmethod
    def of(cls, entry: Entry) -> Stored:
        """Open the tensor of a file, or of memory."""
        if entry.memory is not None:
            return cls(
                entry.name, entry.dtype, entry.shape,
                owner=str(entry.file), memory=entry.memory,
            )  # fmt: skip
        return cls(
            entry.name, entry.dtype, entry.shape,
            owner=str(entry.file.parent), file=entry.file, begin=entry.begin,
        )  # fmt: skip

    def read_raw(self, start: int, stop: int, *, hashed: bool = False) -> Array:
        """The stored bytes of a range, as uint8."""
        begin, end = start * self._item_bytes, stop * self._item_bytes
        if self._memory is not None:
            raw = self._memory[begin:end]
        else:
            raw = np.empty(end - begin, np.uint8)
            view, done = memoryview(raw.data), 0
            while done < len(raw):
                count = os.preadv(self._file, [view[done:]], self._begin + begin + done)
                if count == 0:
                    raise ValueError(f"{self._path} became shorter while it was read")
                done += count
        if self.watching:
            self._refuse_not_finite(raw, start)
        if hashed or self.watching > 1:
            self._hash.update(raw.data)
        return raw

    def read(self, start: int, stop: int) -> Array:
        values = decode(self.read_raw(start, stop), self.dtype)
        return values.copy() if self._memory is not None else values

    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _refuse_not_finite(self, raw: Array, start: int) -> None:
        index = first_not_finite(raw, self.dtype)
        if index is not None:
            value = decode(raw, self.dtype)[index]
            place = [int(i) for i in np.unravel_index(start + index, self.shape)]
            raise ValueError(
                f"every value must be finite: {self.name}{place} of {self.owner} is {value}; "
                "a rule with action='copy' leaves the tensor as it is in the base"
            )


class BlockScaled:
    """FP8 values, each times the scale of its block (DeepSeek-V3 report, 3.3)."""

    def __init__(self, values: Stored, scales: Stored, block: tuple[int, int]) -> None:
        self.shape, self.block = values.shape, block
        self.watching = 0
        self._values, self._stored_scales = values, scales
        self.rows, self.columns = matrix_shape(values.shape)
        down, across = -(-self.rows // block[0]), -(-self.columns // block[1])
        scales.watching = 2
        flat = scales.read(0, int(np.prod(scales.shape)))
        scales.watching = 0
        self.scales = flat.reshape(down, across)

    def read(self, start: int, stop: int) -> Array:
        self._values.watching = self.watching
        values = self._values.read(start, stop)
        values *= self.spread(self.scales, start, stop)
        return values

    def spread(self, scales: Array, start: int, stop: int) -> Array:
        """The scale of each element from `start` to `stop`."""
        first, last = start // self.columns, -(-stop // self.columns)
        rows = scales[np.arange(first, last) // self.block[0]]
        wide = np.repeat(rows, self.block[1], axis=1)[:, : self.columns]
        offset = first * self.columns
        return wide.reshape(-1)[start - offset : stop - offset]

    def digest(self) -> str:
        both = self._values.digest() + self._stored_scales.digest()
        return hashlib.sha256(both.encode()).hexdigest()

    def close(self) -> None:
        self._values.close()
        self._stored_scales.close()


class Adapted:
    """A base's values plus a low-rank update: W + scaling * B A (LoRA, arXiv 2106.09685)."""

    def __init__(
        self, base: Source, down: Stored, up: Stored, *, scaling: float, transposed: bool
    ) -> None:
        self.shape, self.watching = base.shape, 0
        self._base, self._parts, self._scaling = base, (down, up), scaling
        for part in self._parts:
            part.watching = 2
        self._down_RD, self._up_OR = (  # R rank, D input, O output
            part.read(0, int(np.prod(part.shape))).reshape(part.shape).astype(np.float64)
            for part in self._parts
        )
        if transposed:  # stored as input by output: (B A)^T = A^T B^T
            self._up_OR, self._down_RD = self._down_RD.T, self._up_OR.T
        self._cached = (-1, np.empty(0, np.float32))

    def read(self, start: int, stop: int) -> Array:
        columns = self._down_RD.shape[1]
        values = self._base.read(start, stop)
        step = _ADAPTER_ROWS * columns
        for number in range(start // step, -(-stop // step)):
            update = self._update(number)
            begin = number * step
            first, last = max(start, begin), min(stop, begin + len(update))
            values[first - start : last - start] += update[first - begin : last - begin]
        return values

    def _update(self, number: int) -> Array:
        if self._cached[0] != number:
            rows = self._up_OR[number * _ADAPTER_ROWS : (number + 1) * _ADAPTER_ROWS]
            update = (self._scaling * (rows @ self._down_RD)).astype(np.float32)
            self._cached = (number, update.reshape(-1))
        return self._cached[1]

    def digest(self) -> str:
        both = "".join(part.digest() for part in self._parts) + repr(self._scaling)
        return hashlib.sha256(both.encode()).hexdigest()

    def close(self) -> None:
        self._base.close()
        for part in self._parts:
            part.close()


class Extended:
    """A table cut or filled to `shape`: rows it lacks are the mean of `fillers` with them."""

    def __init__(self, own: Source, shape: tuple[int, ...], fillers: Sequence[Source]) -> None:
        self.shape, self.watching = shape, 0
        self._own, self._fillers = own, fillers
        self._own_size = int(np.prod(own.shape))

    def read(self, start: int, stop: int) -> Array:
        self._own.watching = self.watching
        middle = min(max(self._own_size, start), stop)
        parts = [self._own.read(start, middle)] if middle > start else []
        while middle < stop:
            part, middle = self._fill(middle, stop)
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _fill(self, start: int, stop: int) -> tuple[Array, int]:
        sizes = [int(np.prod(source.shape)) for source in self._fillers]
        stop = min([stop, *(size for size in sizes if size > start)])
        longer = [s for s, size in zip(self._fillers, sizes, strict=True) if size > start]
        total = np.sum([source.read(start, stop).astype(np.float64) for source in longer], axis=0)
        return (total / len(longer)).astype(np.float32), stop

    def digest(self) -> str:
        return self._own.digest()

    def close(self) -> None:
        self._own.close()
        for source in self._fillers:
            source.close()


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns: all axes but the last are rows, and a vector is one row."""
    columns = shape[-1] if shape else 1
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows, columns
