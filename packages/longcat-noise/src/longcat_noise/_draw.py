"""Every random decision is a pure function of its name: no state, no order, no surprise.

`Draw(seed, episode)("failure", "find_member", 2)` is the same number in every process and run.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Draw:
    """Uniform numbers in [0, 1) by name, for one episode."""

    seed: int
    episode: str

    def __call__(self, *name: object) -> float:
        """Return the number of this name."""
        text = "\x1f".join(map(str, (self.seed, self.episode, *name)))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    def choose(self, items: Sequence[Item], *name: object) -> Item:
        """Return the item of this name."""
        return items[int(self(*name) * len(items))]
