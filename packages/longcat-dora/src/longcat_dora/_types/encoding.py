"""A trajectory as bytes.

A JSON header, and for each segment its ids and the log-probs of what was sampled.

Who spoke when is in the header, as the lengths of the mask's stretches, which are given and sampled
in turn.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, islice
from typing import Any

_MAGIC, _HEAD = b"LCT3", struct.Struct("<4sI")

Column = tuple[Any, Any, Any]
"""Ids, mask and log-probs of a segment: lists or arrays."""


def encode(
    head: Mapping[str, Any], columns: Iterable[tuple[Sequence[int], Sequence[float], bytes]]
) -> list[bytes | memoryview]:
    """Return header, ids and log-probs in pieces.

    `columns` has ids, log-probs and mask of each segment.
    """
    header = json.dumps(head, separators=(",", ":")).encode()
    header += b" " * (-(_HEAD.size + len(header)) % 8)  # numbers lie where a processor likes them
    parts: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, len(header)), header]
    for ids, log_probs, mask in columns:
        parts += [
            memoryview(array("i", ids)).cast("B"),
            memoryview(array("f", compress(log_probs, mask))).cast("B"),
        ]
    return parts


def decode(view: memoryview, *, as_arrays: bool) -> tuple[dict[str, Any], list[Column]]:
    """Read what `encode` wrote: the header, and a column for each of its segments.

    Raises:
        ValueError: It is something else. Also `struct.error`, `KeyError`, `TypeError`,
            `IndexError`.
    """
    magic, length = _HEAD.unpack_from(view)
    if magic != _MAGIC:
        raise ValueError(f"they must begin with {_MAGIC!r}, got {magic!r}")
    offset = _HEAD.size + length
    head: dict[str, Any] = json.loads(bytes(view[_HEAD.size : offset]))
    columns: list[Column] = []
    for turns, _, _ in head["segments"]:
        num, num_sampled = sum(turns), sum(turns[1::2])
        end = offset + 4 * num
        ids, sampled = view[offset:end], view[end : end + 4 * num_sampled]
        offset = end + 4 * num_sampled
        if (ids.nbytes, sampled.nbytes) != (4 * num, 4 * num_sampled):
            raise ValueError(f"{num} tokens are announced, {ids.nbytes // 4} are there")
        read = _as_arrays if as_arrays else _as_lists
        columns.append(read(turns, ids, sampled))
    return head, columns


def _as_lists(turns: Sequence[int], ids: memoryview, sampled: memoryview) -> Column:
    mask: list[bool] = []
    log_probs: list[float] = []
    numbers, probs = array("i"), array("f")
    numbers.frombytes(ids)
    probs.frombytes(sampled)
    rest = iter(probs.tolist())
    for turn, length in enumerate(turns):
        mask += [turn % 2 == 1] * length
        log_probs += islice(rest, length) if turn % 2 else [0.0] * length
    return numbers.tolist(), mask, log_probs


def _as_arrays(turns: Sequence[int], ids: memoryview, sampled: memoryview) -> Column:
    import numpy as np  # noqa: PLC0415 - who asks for arrays has it

    mask = np.repeat(np.arange(len(turns)) % 2 == 1, turns)
    log_probs = np.zeros(len(mask), np.float32)
    log_probs[mask] = np.frombuffer(sampled, np.float32)
    return np.frombuffer(ids, np.int32), mask, log_probs


def turns_of(mask: bytes) -> list[int]:
    """Return the lengths of a mask's stretches, which are in turn 0 and 1.

    The first may have none.
    """
    turns: list[int] = []
    begin, sought = 0, 1
    while begin < len(mask):
        end = mask.find(sought, begin)
        end = len(mask) if end < 0 else end
        turns.append(end - begin)
        begin, sought = end, 1 - sought
    return turns
