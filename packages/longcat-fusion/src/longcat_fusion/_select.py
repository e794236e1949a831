"""The k-th largest of many numbers, exactly, in linear time and a fixed memory.

A sample says between which two values the k-th largest must lie. One pass then counts what lies
outside and keeps the few values inside, among which the answer is picked. Where the sample misled,
which the counts show, or too many values lie inside, the bits decide: those of numbers that are not
negative sort as the numbers do, so a histogram of the upper 16 bits says in which bucket the k-th
largest lies, and one of the next 16 bits of that bucket's members where in it: two passes for
float32, four for float64. Either way the answer is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ._numbers import Array

_BUCKETS = 1 << 16

Passes = Callable[[], Iterable[Sequence[Array]]]
"""Begins a pass: parts, each of one array per stream, of values that are not negative."""
Rank = int | Callable[[int], int]
"""A rank, counted from 1 (0 stands for infinity), or what it is by the number of values above 0."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known before the first pass."""

    parts: Passes
    """A few parts of the streams, spread evenly over them."""
    size: int
    """Values of each stream."""
    room: int
    """Values that may be kept for each rank."""


def kth_largest(
    passes: Passes, ranks: Sequence[Sequence[Rank]], sample: Sample | None = None
) -> list[list[float]]:
    """Find the k-th largest value of each stream, for each k of that stream.

    Args:
        passes: Called once for each pass. The arrays hold float32 or float64.
        ranks: For each stream, its ks.
        sample: Saves passes; the answer does not depend on it.

    Returns:
        For each stream and k, the value t: at least k values are t or more, fewer than k exceed it.
    """
    wanted = [(stream, rank) for stream, found in enumerate(ranks) for rank in found]
    answers: list[float | None] = [None] * len(wanted)
    if sample is not None:
        windows = _windows(wanted, sample)
        _fill(windows, passes)
        wanted = [(w.stream, w.resolved()) for w in windows]
        answers = [w.answer(rank) for w, (_, rank) in zip(windows, wanted, strict=True)]
    else:
        above_0 = _above_0(passes, wanted)
        wanted = [(s, rank(above_0[s]) if callable(rank) else rank) for s, rank in wanted]
    missed = [place for place, answer in enumerate(answers) if answer is None]
    searches = [_Search(wanted[place][0], wanted[place][1]) for place in missed]
    for place, answer in zip(missed, _by_histogram(passes, searches), strict=True):
        answers[place] = answer
    flat = (answer for answer in answers if answer is not None)  # which is all of them by now
    return [[next(flat) for _ in found] for found in ranks]


# -- by a window ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Window:
    """The values between `low` and `high`, both left out, of one stream."""

    stream: int
    rank: Rank
    low: float
    high: float
    room: int
    size: int = 0
    above_0: int = 0
    below_high: int = 0
    at_high: int = 0
    at_low: int = 0
    num_kept: int = 0
    parts: list[Array] = field(default_factory=list)

    def add(self, values: Array) -> None:
        """Count one part, and keep what lies inside."""
        inside = values < self.high
        self.size += len(values)
        self.below_high += int(np.count_nonzero(inside))
        self.at_high += int(np.count_nonzero(values == self.high))
        self.at_low += int(np.count_nonzero(values == self.low))
        inside &= values > self.low
        if callable(self.rank):
            self.above_0 += int(np.count_nonzero(values))
        if self.num_kept <= self.room:
            kept = values[inside]
            self.num_kept += len(kept)
            self.parts.append(kept)
        if self.num_kept > self.room:
            self.parts.clear()

    def resolved(self) -> int:
        """The rank, where it depends on the values."""
        return self.rank(self.above_0) if callable(self.rank) else self.rank

    def answer(self, rank: int) -> float | None:
        """The value of that rank; None where it lies outside, or too much lies inside."""
        if rank <= 0:
            return math.inf
        rank -= self.size - self.below_high - self.at_high
        if rank <= 0:
            return None
        if rank <= self.at_high:
            return self.high
        rank -= self.at_high
        if self.num_kept > self.room:
            return None
        if rank <= self.num_kept:
            values = np.concatenate(self.parts)
            values.sort()
            return float(values[len(values) - rank])
        return self.low if rank <= self.num_kept + self.at_low else None


def _windows(wanted: Sequence[tuple[int, Rank]], sample: Sample) -> list[_Window]:
    if sample.size <= sample.room:  # all of it is kept
        return [_Window(s, rank, -math.inf, math.inf, sample.room) for s, rank in wanted]
    parts = [tuple(arrays) for arrays in sample.parts()]
    windows: list[_Window] = []
    for stream, rank in wanted:
        low, high = _bounds([arrays[stream] for arrays in parts], rank, sample.size)
        windows.append(_Window(stream, rank, low, high, sample.room))
    return windows


def _bounds(parts: Sequence[Array], rank: Rank, size: int) -> tuple[float, float]:
    """Two values between which the k-th largest lies, by what these parts hold."""
    values = np.sort(np.concatenate(parts))[::-1]  # a partition is slow where many are equal
    count = len(values)
    if callable(rank):
        rank = rank(round(int(np.count_nonzero(values)) / count * size))
    share = min(max(rank / size, 0.0), 1.0)
    # Neighbours are alike, so the parts say more about the error than their number of values does.
    guess = values[min(int(share * count), count - 1)]
    shares = [np.count_nonzero(part >= guess) / len(part) for part in parts]
    error = max(np.std(shares) / math.sqrt(len(parts)), math.sqrt(share * (1 - share) / count))
    reach = 4 * error * count + 8
    first, last = math.floor(share * count - reach), math.ceil(share * count + reach)
    high = float(values[first]) if first >= 0 else math.inf
    low = float(values[last]) if last < count else -math.inf
    return low, high


def _fill(windows: Sequence[_Window], passes: Passes) -> None:
    for arrays in passes():
        for window in windows:
            window.add(arrays[window.stream])


def _above_0(passes: Passes, wanted: Sequence[tuple[int, Rank]]) -> dict[int, int]:
    streams = {stream for stream, rank in wanted if callable(rank)}
    counts = dict.fromkeys(streams, 0)
    for arrays in passes() if streams else ():
        for stream in streams:
            counts[stream] += int(np.count_nonzero(arrays[stream]))
    return counts


# -- by histograms -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Search:
    stream: int
    rank: int
    """Rank still to be counted down inside the bucket."""
    prefix: int = 0
    counts: Array | None = None


def _by_histogram(passes: Passes, searches: Sequence[_Search]) -> list[float]:
    live = [search for search in searches if search.rank > 0]
    kind, shift = np.dtype(np.uint32), 16
    level = 0
    while live and shift >= 0:
        for arrays in passes():
            if level == 0 and arrays[0].dtype == np.float64:
                kind, shift = np.dtype(np.uint64), 48
            _count(live, arrays, kind, shift, level)
        for search in live:
            _descend(search)
        level, shift = level + 1, shift - 16
    return [
        math.inf if s.rank <= 0 else float(np.array(s.prefix, kind).view(_float(kind)))
        for s in searches
    ]


def _float(kind: np.dtype) -> type:
    return np.float32 if kind.itemsize == 4 else np.float64


def _count(
    live: Sequence[_Search], arrays: Sequence[Array], kind: np.dtype, shift: int, level: int
) -> None:
    """Add one part to the histograms; searches of one stream share the first one."""
    shared: dict[int, Array] = {}
    for search in live:
        bits = arrays[search.stream].view(kind)
        if level == 0:
            if search.stream not in shared:
                shared[search.stream] = _histogram(bits >> kind.type(shift))
            found = shared[search.stream]
        else:
            inside = bits[(bits >> kind.type(shift + 16)) == search.prefix]
            found = _histogram((inside >> kind.type(shift)) & kind.type(0xFFFF))
        search.counts = found if search.counts is None else search.counts + found


def _histogram(buckets: Array) -> Array:
    return np.bincount(buckets.astype(np.int64), minlength=_BUCKETS)


def _descend(search: _Search) -> None:
    assert search.counts is not None
    from_above = np.cumsum(search.counts[::-1])
    place = int(np.searchsorted(from_above, search.rank))
    if place == _BUCKETS:
        raise ValueError(f"a rank must be at most the {from_above[-1]} values, got {search.rank}")
    search.rank -= int(from_above[place - 1]) if place else 0
    search.prefix = search.prefix << 16 | (_BUCKETS - 1 - place)
    search.counts = None
