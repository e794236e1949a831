"""Which blocks of a cache are in use, by how many, and what the unused ones still hold.

- A block holds the latents of `block_size` tokens of one conversation, or of several that begin
  alike.
- A full block has a key: the version and all tokens up to its end. Whoever begins with those tokens
  shares it. It stays findable after its last user left, until its room is needed.
- Least recently left first: that is the order in which unused blocks lose what they hold.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b


class BlockPool:
    """Counts users of blocks 0 to `num_blocks` - 1; holds no tensor."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._users = [0] * num_blocks
        self._unused: dict[int, None] = dict.fromkeys(range(num_blocks))  # in order of leaving
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_used(self) -> int:
        """Blocks with a user."""
        return self.num_blocks - len(self._unused)

    def take(self) -> int:
        """Return a block for one user, its content lost; there must be one."""
        block = next(iter(self._unused))
        del self._unused[block]
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
        self._users[block] = 1
        return block

    def give(self, block: int) -> None:
        """Take one user off."""
        self._users[block] -= 1
        assert self._users[block] >= 0, f"block {block} was given twice"
        if not self._users[block]:
            self._unused[block] = None

    def share(self, key: bytes) -> int | None:
        """Return the block of that key with one more user, if there is one."""
        block = self._block_of.get(key)
        if block is not None:
            self._unused.pop(block, None)
            self._users[block] += 1
        return block

    def has(self, key: bytes) -> bool:
        """Whether `share` would find a block."""
        return key in self._block_of

    def name(self, block: int, key: bytes) -> None:
        """Make a full block findable; the first of equal ones is kept."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key], self._key_of[block] = block, key


def chain_keys(
    version: int, tokens: Sequence[int], keys: list[bytes], block_size: int, num: int | None = None
) -> None:
    """Extend `keys` by those of the blocks that `tokens` fill, or the first `num` of them."""
    num = len(tokens) if num is None else num
    for end in range((len(keys) + 1) * block_size, num + 1, block_size):
        before = keys[-1] if keys else str(version).encode()
        new = struct.pack(f"<{block_size}I", *tokens[end - block_size : end])
        keys.append(blake2b(before + b":" + new, digest_size=16).digest())
