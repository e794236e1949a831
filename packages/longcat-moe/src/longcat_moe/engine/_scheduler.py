"""Who computes in the next step, and whose latents make room for it.

- Requests go in the order in which they came, as far as their new tokens fit into one step and their
  blocks into the pool. A long prompt is computed in chunks, beside everyone's decoding.
- When blocks run short, whole conversations are moved to host memory and later back, never computed
  again: first those that nobody asks anything of, then the latest to come. The first in line can
  always go on, so every request ends.
- To begin or to come back needs room below the watermark; to go on needs any room at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ._blocks import BlockPool, chain_keys
from ._cache import LatentCache, Span
from ._request import Conversation, EngineStats
from ._sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Work:
    """What one conversation computes in a step."""

    conversation: Conversation
    params: SamplingParams
    token_ids: list[int]
    span: Span
    is_last: bool
    """Whether the prompt ends here, so that a token is sampled."""
    has_draft: bool = False


class Scheduler:
    """Plans steps over one cache."""

    def __init__(
        self, cache: LatentCache, *, chunk_tokens: int, watermark: float, stats: EngineStats
    ) -> None:
        self.cache, self.stats, self.chunk_tokens = cache, stats, chunk_tokens
        self.size = cache.block_size
        self.pool = BlockPool(cache.latents.shape[1])
        self.limit = max(1, int(self.pool.num_blocks * watermark))
        self._step = 0
        self._everyone: Iterable[Conversation] = ()
        """Whose latents may be moved out."""

    def look_at(self, everyone: Iterable[Conversation]) -> None:
        """Note whose latents may be moved out from here on."""
        self._everyone = everyone

    def plan(self, active: Sequence[Conversation]) -> list[Work]:
        """Choose what computes now, and give it blocks."""
        self._step += 1
        budget, batch = self.chunk_tokens, list[Work]()
        begun: set[bytes] = set()
        for c in sorted(active, key=_order):
            if c.num_new > 1 and budget <= 0:
                continue
            if not self._is_in(c, is_first=not batch) or self._waits_for_prefix(c, begun):
                continue
            has_draft = c.num_new == 1 and c.draft is not None
            num = 1 + has_draft if c.num_new == 1 else min(c.num_new, budget)
            if not self._grow(c, c.num_cached + num):
                continue
            budget -= num if c.num_new > 1 else 0
            batch.append(self._work(c, num, has_draft))
        return batch

    def _work(self, c: Conversation, num: int, has_draft: bool) -> Work:
        assert c.request is not None
        new = c.tokens[c.num_cached : c.num_cached + num]
        if has_draft and c.draft is not None:
            new.append(c.draft.token_id)
        c.last_step, c.is_computing = self._step, True
        is_last = c.num_cached + num >= len(c.tokens)
        return Work(c, c.request.params, new, Span(c.blocks, c.num_cached, num), is_last, has_draft)

    def confirm(self, c: Conversation, num_cached: int) -> None:
        """Note that so many tokens of a conversation are computed now."""
        before, c.num_cached = c.num_cached // self.size, num_cached
        if num_cached // self.size > before:
            chain_keys(c.version, c.tokens[:num_cached], c.keys, self.size)
            for place in range(before, num_cached // self.size):
                self.pool.name(c.blocks[place], c.keys[place])

    def release(self, c: Conversation) -> None:
        """Give all blocks of a conversation back."""
        for block in c.blocks:
            self.pool.give(block)
        c.blocks, c.host = [], None

    def accept(self, c: Conversation) -> None:
        """Put latents that arrived from a prefill process into blocks, as far as there is room."""
        while c.arrivals:
            start, latents = c.arrivals[0]
            end = start + latents.shape[1]
            if end > c.num_cached:
                if not self._is_in(c, is_first=False) or not self._grow(c, end):
                    return
                self.cache.store(c.blocks, start, latents)
                self.confirm(c, end)
            del c.arrivals[0]

    # -- prefixes ----------------------------------------------------------------------------

    def share_prefix(self, c: Conversation) -> int:
        """Take over blocks that others computed for the same beginning; return how many tokens."""
        if c.host is not None or c.num_cached % self.size:
            return 0
        chain_keys(c.version, c.tokens, c.keys, self.size)
        num = 0
        while c.num_new > self.size:  # one token at least is left to compute
            if len(c.blocks) != c.num_cached // self.size:
                break
            block = self.pool.share(c.keys[len(c.blocks)])
            if block is None:
                break
            c.blocks.append(block)
            c.num_cached += self.size
            num += self.size
        self.stats.num_reused += num
        return num

    def _waits_for_prefix(self, c: Conversation, begun: set[bytes]) -> bool:
        """Share what is there; wait when another one computes the next block in this very step."""
        if c.num_new <= 1:
            return False
        self.share_prefix(c)
        place = c.num_cached // self.size
        if c.num_cached % self.size or place >= len(c.keys) or c.num_new <= self.size:
            return False
        if c.keys[place] in begun:
            return True
        begun.add(c.keys[place])
        return False

    # -- room --------------------------------------------------------------------------------

    def _is_in(self, c: Conversation, *, is_first: bool) -> bool:
        """Bring a conversation's latents back if they were moved out."""
        if c.host is None:
            return True
        num = c.host.shape[1]
        limit = self.pool.num_blocks if is_first else self.limit
        if not self._make_room(num, limit, c):
            return False
        c.blocks = [self.pool.take() for _ in range(num)]
        self.cache.write(c.blocks, c.host)
        c.host = None
        self.stats.num_swapped_in += num
        return True

    def _grow(self, c: Conversation, length: int) -> bool:
        num = -(-length // self.size) - len(c.blocks)
        if num <= 0:
            return True
        if not self._make_room(num, self.pool.num_blocks, c):
            return False
        c.blocks += [self.pool.take() for _ in range(num)]
        return True

    def _make_room(self, num: int, limit: int, c: Conversation) -> bool:
        """Move others out until `num` more blocks stay within `limit`."""
        if self.pool.num_used + num <= limit:
            return True
        spare = [
            o for o in self._everyone if o.blocks and not o.is_computing and _order(o) > _order(c)
        ]
        for other in sorted(spare, key=lambda o: (-_order(o), o.last_step)):
            self._move_out(other)
            if self.pool.num_used + num <= limit:
                return True
        return False

    def _move_out(self, c: Conversation) -> None:
        c.host = self.cache.read(c.blocks)
        for block in c.blocks:
            self.pool.give(block)
        self.stats.num_swapped_out += len(c.blocks)
        c.blocks, c.draft = [], None


_IDLE = 1 << 60


def _order(c: Conversation) -> int:
    return c.request.order if c.request is not None else _IDLE
