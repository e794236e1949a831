"""Pools: where column values come from. A list of words, a pattern over other pools, or digits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ._fields import DomainError, known, table, text, texts

MAX_DIGITS = 9
"""Digits of a number at most, as `_database.py` takes them."""
_PART = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Pools:
    """Named sources of column values."""

    table: Mapping[str, Mapping[str, Any]]

    def draw(self, name: str, rng: Random) -> str:
        """Draw one value of pool `name`."""
        pool = self.table[name]
        if "words" in pool:
            return rng.choice(pool["words"])
        if "digits" in pool:
            first = rng.choice("123456789")
            return first + "".join(rng.choice("0123456789") for _ in range(pool["digits"] - 1))
        return _PART.sub(lambda m: self.draw(m[1], rng), pool["pattern"])

    def pattern(self, name: str) -> str:
        """Return a regular expression of every value of pool `name`."""
        pool = self.table[name]
        if "words" in pool:
            words = sorted(pool["words"], key=len, reverse=True)
            return "(?:" + "|".join(re.escape(word) for word in words) + ")"
        if "digits" in pool:
            return rf"[0-9]{{{pool['digits']}}}"
        parts = _PART.split(pool["pattern"])
        return "".join(
            self.pattern(part) if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )

    def is_number(self, name: str) -> bool:
        """Whether pool `name` holds whole numbers only."""
        pool = self.table[name]
        return "digits" in pool or all(w.isdecimal() for w in pool.get("words", ("",)))

    def size(self, name: str) -> int:
        """How many values pool `name` has at most."""
        pool = self.table[name]
        if "words" in pool:
            return len(pool["words"])
        if "digits" in pool:
            return 9 * 10 ** (pool["digits"] - 1)
        return math.prod(self.size(part) for part in _PART.findall(pool["pattern"]))


def check_pool(pools: Pools, name: str, above: tuple[str, ...] = ()) -> None:
    """Check that a pool gives two values at least, and so do those of which it is made.

    Raises:
        DomainError: It does not.
    """
    where = f"pool {name!r}"
    if name in above:
        raise DomainError(f"{where} must not be made of itself, by {' > '.join((*above, name))}")
    pool = table(where, "", pools.table[name])
    if len(pool) != 1 or not pool.keys() <= {"words", "digits", "pattern"}:
        raise DomainError(f"{where} must have words, digits or a pattern, has {sorted(pool)}")
    if "words" in pool:
        words = texts(where, "words", pool["words"])
        for word in words:
            text(where, "each word", word)
        if len({word.casefold() for word in words}) < max(2, len(words)):
            raise DomainError(f"{where} must have two values at least, distinct, has {words!r}")
    elif "digits" in pool:
        digits = pool["digits"]
        if type(digits) is not int or not 1 <= digits <= MAX_DIGITS:
            raise DomainError(f"{where} must have 1 to {MAX_DIGITS} digits, got {digits!r}")
    else:
        parts = _PART.findall(text(where, "pattern", pool["pattern"]))
        known(where, "pattern", parts or [pool["pattern"]], tuple(pools.table))
        for part in parts:
            check_pool(pools, part, (*above, name))
