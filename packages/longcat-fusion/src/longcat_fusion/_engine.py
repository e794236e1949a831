"""Merge one tensor, from sources to stored bytes; the same for files and for memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ._config import MergeConfig, TensorSettings
from ._encode import Blocks, Encoder, Plain, refuse_not_finite_result
from ._headers import ITEM_BYTES
from ._masks import key_of
from ._match import Match
from ._methods._matrix import is_layer_matrix, matrix_bytes
from ._numbers import FLOATS, Array
from ._sources import BlockScaled, Source, Stored
from ._view import UNIT, View

TILE = 1 << 16
"""Elements of a tile where the budget allows: small enough to stay in a CPU's cache."""
_COPY_BYTES = 1 << 22
_HALF_PRECISION_STEP = 2.0**-21  # changes below it are rounding of the float32 sums themselves

Put = Callable[[bool, int, Array], None]
"""Takes bytes of the result: whether they are scales, their first byte, and the bytes."""


@dataclass(frozen=True, slots=True)
class TensorTask:
    """One tensor of the result: where it comes from, what is done, how it is stored."""

    match: Match
    settings: TensorSettings
    dtype: str
    scales: tuple[str, tuple[int, ...]] | None
    """Dtype and shape of the scales that are written with it."""
    mask_name: str = ""
    """Name that keys its masks, if not its own: a stored copy of a tied table drops alike."""

    @property
    def name(self) -> str:
        return self.match.name

    @property
    def is_copied(self) -> bool:
        """Whether the base's bytes are the result."""
        same = self.dtype == self.match.base.dtype and self.match.shape == self.match.base.shape
        return same and (self.settings.action == "copy" or self.dtype not in FLOATS)

    @property
    def out_bytes(self) -> int:
        """Bytes of the result, scales included."""
        stored = [(self.dtype, self.match.shape), *([self.scales] if self.scales else [])]
        return sum(ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in stored)

    def unit(self) -> int:
        """Elements that must be in memory together."""
        method = self.settings.method
        unit = max(UNIT, method.unit(self.match.shape))
        if self.scales:
            columns = self.match.shape[-1] if self.match.shape else 1
            unit = max(unit, self.match.base.block[0] * columns)
        return unit

    def memory_bytes(self, tile_size: int = UNIT) -> int:
        """Most memory that merging it takes, with tiles of `tile_size` elements or a unit."""
        if self.is_copied:
            return _COPY_BYTES
        num_experts = max(1, len(self.match.experts))
        size = math.prod(self.match.shape)
        tile = min(max(tile_size, self.unit()), size)
        wide = 2 if self.match.base.dtype == "F64" else 1
        # Inputs in both forms, as many arrays again for a method's work, and 64-bit words.
        per_element = wide * (4 + 4) * (num_experts + 1) + wide * 4 * num_experts + 64
        per_element += wide * self.settings.method.held_bytes(num_experts)
        total = tile * per_element + sum(part.memory_bytes for part in self.match.experts)
        total += (1 << 19) * 2 * num_experts  # histograms
        if self.scales:
            total += 4 * size // min(1 << 12, self.match.base.block[0] * self.match.base.block[1])
        if self.settings.method.whole and is_layer_matrix(self.name, self.match.shape):
            total += matrix_bytes(self.match.shape, num_experts)
        return total


@dataclass(slots=True)
class Outcome:
    """What happened to one tensor."""

    moved: int = 0
    """Elements that the merge changed, before rounding to the stored dtype."""
    lost: int = 0
    """Of these, elements that rounding put back to the base's value."""
    digests: list[str] = field(default_factory=list)
    """SHA-256 of the base's tensor and each expert's, where they were taken."""


def merge_task(task: TensorTask, config: MergeConfig, tile_size: int, put: Put) -> Outcome:
    """Merge one tensor and hand its bytes to `put`, in order.

    Raises:
        ValueError: A value is not finite, or the result does not fit; the message names it.
    """
    if task.is_copied:
        return _copy(task, config, put)
    sources: list[Source] = []
    try:
        base = task.match.base_open()
        sources.append(base)
        for part in task.match.experts:
            sources.append(part.open())
        view = View(
            task.mask_name or task.name, base, sources[1:],
            weights=task.settings.weights, scale=task.settings.scale,
            seed=config.seed, tile_size=tile_size, hashes=config.digests,
        )  # fmt: skip
        encoder = _encoder(task, base, config)
        view.least_unit = encoder.unit
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused by name
            return _run(task, view, encoder, put)
    finally:
        for source in sources:
            source.close()


def _encoder(task: TensorTask, base: Source, config: MergeConfig) -> Encoder:
    if task.scales:
        if not isinstance(base, BlockScaled):
            raise ValueError(f"{task.name}: a table with FP8 scales cannot change its length")
        return Blocks(base, task.dtype, task.scales[0])
    stochastic = config.rounding == "stochastic" and task.settings.action != "copy"
    key = key_of("round", config.seed, task.mask_name or task.name)
    return Plain(task.dtype, key if stochastic else None)


def _run(task: TensorTask, view: View, encoder: Encoder, put: Put) -> Outcome:
    method = task.settings.method
    apply = (lambda tile: tile.base) if not view.num_experts else method.prepare(view)
    is_rounded = task.dtype not in ("F32", "F64") and not method.scales
    outcome, place = Outcome(), 0
    for tile in view.tiles(method.unit(view.shape)):
        base = tile.base.copy() if not view.num_experts else tile.base
        values = apply(tile)
        raw, stored = encoder.encode(tile.start, values, base)
        refuse_not_finite_result(tile, stored, task.name, task.dtype)
        unmoved = stored == base
        changes = _are_apart(values, base) if is_rounded else values != base
        outcome.moved += int(np.count_nonzero(changes))
        unmoved &= changes
        outcome.lost += int(np.count_nonzero(unmoved))
        put(False, place, raw)
        place += len(raw)
    if isinstance(encoder, Blocks):
        put(True, 0, encoder.scale_bytes())
    outcome.digests = view.digests or []
    return outcome


def _are_apart(values: Array, base: Array) -> Array:
    """Which values differ by more than rounding in float32; `base` is used up."""
    distance = values - base
    np.abs(distance, out=distance)
    np.abs(base, out=base)
    base *= _HALF_PRECISION_STEP
    return distance > base


def _copy(task: TensorTask, config: MergeConfig, put: Put) -> Outcome:
    base = task.match.base
    digests = []
    for is_scales, entry in ((False, base.values), (True, base.scales)):
        if entry is None:
            continue
        source = Stored.of(entry)
        try:
            step = max(1, _COPY_BYTES // max(1, entry.num_bytes // max(1, entry.size)))
            for start in range(0, entry.size, step):
                raw = source.read_raw(start, min(start + step, entry.size), hashed=config.digests)
                put(is_scales, start * (entry.num_bytes // entry.size), raw)
            digests.append(source.digest())
        finally:
            source.close()
    return Outcome(digests=digests[:1] if config.digests else [])
