"""Random numbers that are a function of a key and an element's index, and of nothing else.

A stream would tie an element's number to how many were drawn before it, and so to threads, tiles,
shards and order. Here element i of a key always has the same number: SplitMix64 (Steele, Lea and
Flood 2014) is a bijection of a counter, so any range can be computed at any time.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ._numbers import Array

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = 2**64 - 1


def key_of(*parts: object) -> int:
    """64 bits from the parts, each told apart from its neighbours."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_words(key: int, start: int, stop: int) -> Array:
    """One uniform uint32 for each of the elements `start` to `stop`; two share a 64-bit word."""
    first, last = start // 2, -(-stop // 2)
    words = np.arange(first, last, dtype=np.uint64)
    words += np.uint64(1)
    words *= np.uint64(_GOLDEN)
    words += np.uint64(key & _MASK64)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words.view("<u4")[start - 2 * first : stop - 2 * first]


def keep_mask(key: int, start: int, stop: int, keep: float) -> Array:
    """Keep each element with probability `keep` (to one part in 2^32)."""
    return random_words(key, start, stop) < np.uint32(min(round(keep * 2**32), 2**32 - 1))
