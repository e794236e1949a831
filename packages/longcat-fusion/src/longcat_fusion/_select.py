"""The k-th largest of many numbers, exactly, in linear time and a fixed memory.

The bits of numbers that are not negative sort as the numbers do. So a histogram of the upper 16
bits says in which bucket the k-th largest lies, and a histogram of the next 16 bits of that
bucket's members says where in it: two passes for float32, four for float64, whatever the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ._numbers import Array

_BUCKETS = 1 << 16


@dataclass(slots=True)
class _Search:
    stream: int
    rank: int
    """Rank still to be counted down inside the bucket."""
    prefix: int = 0
    counts: Array | None = None


def kth_largest(
    passes: Callable[[], Iterable[Sequence[Array]]], ranks: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Find the k-th largest value of each stream, for each k of that stream.

    Args:
        passes: Called once for each pass; yields parts, each of one array per stream. The arrays
            hold float32 or float64 values that are not negative.
        ranks: For each stream, its ks, counted from 1; 0 stands for infinity.

    Returns:
        For each stream and k, the value t: at least k values are t or more, fewer than k exceed it.
    """
    searches = [[_Search(stream, rank) for rank in wanted] for stream, wanted in enumerate(ranks)]
    live = [search for found in searches for search in found if search.rank > 0]
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
        [
            float("inf") if s.rank <= 0 else float(np.array(s.prefix, kind).view(_float(kind)))
            for s in found
        ]
        for found in searches
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
