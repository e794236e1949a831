"""One tensor of the base and of every expert, seen tile by tile; what a merge method works on.

What always holds:

- a method may go over the tiles as often as it likes; tiles come in order and cover the tensor;
- tiles begin at multiples of `unit`, and sums are taken over units first: no result depends on how
  large the tiles are, or on how many threads work;
- on the first pass every input is checked for values that are not finite, and its digest taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ._masks import key_of
from ._numbers import Array
from ._sources import Source, matrix_shape

UNIT = 4096
"""Elements that are summed in float32 before sums of units are added exactly."""
SAMPLE, ROOM, REMEMBERED_BYTES = 2, 4, 64
"""What a method may hold from one pass to the next, for each element of a tile: values of a sample,
values for each of its thresholds, bytes of masks."""


@dataclass(slots=True)
class Tile:
    """Elements `start` to `stop` of one tensor; the arrays may be changed."""

    start: int
    stop: int
    base: Array
    experts: list[Array]

    def deltas(self) -> list[Array]:
        """Turn the experts' values into their task vectors, expert - base, and return these."""
        for values in self.experts:
            np.subtract(values, self.base, out=values)
        return self.experts


Apply = Callable[[Tile], Array]
"""From a tile to the merged values of its elements."""


class View:
    """One tensor of all checkpoints.

    Args:
        name: The tensor's name.
        base: The base's values.
        experts: The experts' values, of the base's shape.
        weights: One per expert.
        scale: What the merged task vector is multiplied with.
        seed: Seed of the masks.
        tile_size: Elements of a tile, where no unit asks for more.
        hashes: Take digests of the inputs on the first pass.
    """

    def __init__(
        self,
        name: str,
        base: Source,
        experts: Sequence[Source],
        *,
        weights: Sequence[float],
        scale: float = 1.0,
        seed: int = 0,
        tile_size: int = 1 << 18,
        hashes: bool = True,
    ) -> None:
        self.name, self.shape = name, base.shape
        self.size = math.prod(base.shape)
        self.columns = matrix_shape(base.shape)[1]
        self.weights, self.scale, self.seed = tuple(weights), scale, seed
        self.num_experts = len(experts)
        self.least_unit = 1
        """Tiles are whole multiples of this too: what is written back needs it (blocks of FP8)."""
        self._sources = [base, *experts]
        self._tile_size = tile_size
        self._watching = 2 if hashes else 1
        self.digests: list[str] | None = None
        """Of the base and each expert, after the first pass."""

    def tiles(self, unit: int = UNIT) -> Iterator[Tile]:
        """Go over the tensor in tiles of whole units."""
        unit = math.lcm(max(unit, 1), max(self.least_unit, 1))
        step = max(unit, self._tile_size // unit * unit)
        for source in self._sources:
            source.watching = self._watching
        for start in range(0, self.size, step):
            stop = min(start + step, self.size)
            base, *experts = (source.read(start, stop) for source in self._sources)
            yield Tile(start, stop, base, experts)
        if self._watching == 2:
            self.digests = [source.digest() for source in self._sources]
        self._watching = 0

    def deltas(self, unit: int = UNIT) -> Iterator[list[Array]]:
        """Go over the task vectors alone."""
        for tile in self.tiles(unit):
            yield tile.deltas()

    def sample(self) -> Iterator[list[Array]]:
        """Give the task vectors of a few units, spread evenly; for a guess, not for a result."""
        count = max(1, SAMPLE * self._tile_size // UNIT)
        for source in self._sources:
            source.watching = min(self._watching, 1)  # digests want everything in order
        for place in range(count):
            start = place * self.size // count
            stop = min(start + UNIT, self.size)
            base, *experts = (source.read(start, stop) for source in self._sources)
            yield Tile(start, stop, base, experts).deltas()

    @property
    def room(self) -> int:
        """Numbers that a method may keep for each of its thresholds."""
        return ROOM * self._tile_size

    @property
    def remembered_bytes(self) -> int:
        """Bytes of masks that a method may keep from one pass to the next."""
        return REMEMBERED_BYTES * self._tile_size

    def keys(self, purpose: str) -> list[int]:
        """One key for the masks of each expert: of seed, the expert's content here, and the name.

        Two experts in another order, under other paths or in other shards keep their masks.
        """
        if self.digests is None:
            self._watching = 2
            for _ in self.tiles():
                pass
        assert self.digests is not None
        return [key_of(purpose, self.seed, self.name, digest) for digest in self.digests[1:]]


def unit_sums(values: Array, unit: int = UNIT) -> list[float]:
    """Sum each unit of `values`: a list whose exact sum does not depend on the tiles."""
    whole = len(values) // unit
    sums = np.add.reduce(values[: whole * unit].reshape(whole, unit), axis=1).tolist()
    if len(values) % unit:
        sums.append(float(np.add.reduce(values[whole * unit :])))
    return sums


class Sums:
    """Exact sums over tiles of several quantities."""

    def __init__(self, count: int) -> None:
        self._parts: list[list[float]] = [[] for _ in range(count)]

    def add(self, place: int, values: Array, unit: int = UNIT) -> None:
        """Add the values of one tile to sum number `place`."""
        self._parts[place].extend(unit_sums(values, unit))

    def totals(self) -> list[float]:
        """The sums: rounded once, so that no order of the tiles changes them."""
        return [math.fsum(parts) for parts in self._parts]


def squared_norms(view: View) -> list[float]:
    """Squared Euclidean norm of each task vector."""
    sums = Sums(view.num_experts)
    for deltas in view.deltas():
        for place, delta in enumerate(deltas):
            sums.add(place, delta * delta)
    return sums.totals()


def share_count(share: float, size: int) -> int:
    """How many of `size` elements are a share of them: rounded down, one at least if any."""
    if share <= 0 or size == 0:
        return 0
    return min(size, max(1, int(share * size)))


def per_expert(value: float | Sequence[float], count: int, name: str) -> tuple[float, ...]:
    """One number per expert, from one for all or one for each."""
    if isinstance(value, int | float):
        return (float(value),) * count
    if len(value) != count:
        raise ValueError(f"{name} must be one number or one per expert: {count}, got {len(value)}")
    return tuple(float(number) for number in value)
