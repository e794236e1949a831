"""Who computes in the next step, and whose latents make room for it.

- Requests go in the order in which they came, as far as their new tokens fit into one step and
  their blocks into the pool. A long prompt is computed in chunks, beside everyone's decoding.
- When blocks run short, whole conversations are moved to host memory and later back, never computed
  again: first those that nobody asks anything of, then the latest to come. The first in line can
  always go on, so every request ends.
- To begin or to come back needs room below the watermark; to go on needs any room at all.
- Blocks of sparse attentions are given back as soon as no later token can look into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ._blocks import BlockPool, chain_keys
from ._cache import GONE, LatentCache, Span
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
    num_steps: int = 1
    """Tokens it may sample before the host looks; there are blocks for one more."""


class Scheduler:
    """Plans steps over one cache."""

    def __init__(
        self, cache: LatentCache, *, chunk_tokens: int, watermark: float, stats: EngineStats,
        num_ahead: Callable[[int], int] = lambda _: 1,
    ) -> None:  # fmt: skip
        self.cache, self.stats, self.chunk_tokens = cache, stats, chunk_tokens
        self.size = cache.block_size
        self.pool, self.near_pool = BlockPool(cache.full.shape[1]), BlockPool(cache.near.shape[1])
        self.limit = max(1, int(self.pool.num_blocks * watermark))
        self.num_ahead = num_ahead
        """Of so many conversations: tokens each may sample before the host looks, at most."""
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
        return self._look_ahead(batch) if len(batch) == len(active) else batch

    def _look_ahead(self, batch: list[Work]) -> list[Work]:
        """Let all go on for several steps, if all decode and there is room below the watermark.

        The last of them may write one place further: it stays at the place after its last token
        while others go on.
        """
        most = self.num_ahead(len(batch))
        if most <= 1 or self.cache.window is not None:
            return batch
        if any(w.has_draft or not w.is_last or len(w.token_ids) > 1 for w in batch):
            return batch
        nums, num_blocks = list[int](), 0
        for c in (w.conversation for w in batch):
            assert c.request is not None
            left = c.request.max_tokens - len(c.request.token_ids)
            nums.append(max(1, min(most, left)))
            num_blocks += max(0, (c.num_cached + nums[-1]) // self.size + 1 - len(c.blocks))
        if self.pool.num_used + num_blocks > self.limit:
            return batch
        for work, num in zip(batch, nums, strict=True):
            self._grow(work.conversation, work.conversation.num_cached + num + 1)
        return [replace(work, num_steps=num) for work, num in zip(batch, nums, strict=True)]

    def _trim(self, c: Conversation) -> None:
        """Give back blocks that were for tokens it then did not sample."""
        while self.cache.window is None and len(c.blocks) > -(-c.num_cached // self.size):
            self.pool.give(c.blocks.pop())

    def _work(self, c: Conversation, num: int, has_draft: bool) -> Work:
        assert c.request is not None
        new = c.tokens[c.num_cached : c.num_cached + num]
        if has_draft and c.draft is not None:
            new.append(c.draft.token_id)
        c.last_step, c.is_computing = self._step, True
        is_last = c.num_cached + num >= len(c.tokens)
        span = Span(c.blocks, c.num_cached, num, c.near)
        return Work(c, c.request.params, new, span, is_last, has_draft)

    def confirm(self, c: Conversation, num_cached: int) -> None:
        """Note that so many tokens of a conversation are computed now."""
        before, c.num_cached = c.num_cached // self.size, num_cached
        if num_cached // self.size > before:
            chain_keys(c.version, c.tokens, c.keys, self.size, num_cached)
            for place in range(before, num_cached // self.size):
                self.pool.name(c.blocks[place], c.keys[place])
                if c.near:
                    self.near_pool.name(c.near[place], c.keys[place])
        self._pass(c)

    def _pass(self, c: Conversation) -> None:
        """Give back what sparse attentions will not look into any more."""
        window = self.cache.window
        if window is None:
            return
        sink_end, local_begin = window.around(c.num_cached)
        c.num_passed = max(c.num_passed, -(-sink_end // self.size))
        while (c.num_passed + 1) * self.size <= local_begin:
            if c.near[c.num_passed] != GONE:
                self.near_pool.give(c.near[c.num_passed])
                c.near[c.num_passed] = GONE
            c.num_passed += 1

    def release(self, c: Conversation) -> None:
        """Give all blocks of a conversation back."""
        self._give_all(c)
        c.near, c.host = [], None

    def drop(self, c: Conversation) -> None:
        """Forget what was computed of a conversation; what a failed step may have left is erased.

        Numbers that are none would spread from a block's unused places to its next user: zero times
        NaN is NaN. What is shared was confirmed by a step that did not fail.
        """
        if c.host is None:
            begin = c.num_cached // self.size
            self.cache.erase(c.blocks[begin:], [b for b in c.near[begin:] if b != GONE])
        self.release(c)
        c.num_cached, c.num_passed, c.keys = 0, 0, []

    def _give_all(self, c: Conversation) -> None:
        if c.host is None:
            for block in c.blocks:
                self.pool.give(block)
            for block in c.near:
                if block != GONE:
                    self.near_pool.give(block)
        c.blocks = []

    def accept(self, c: Conversation) -> None:
        """Put latents that arrived from a prefill process into blocks, as far as there is room."""
        while c.arrivals:
            start, latents = c.arrivals[0]
            end = start + latents.shape[1]
            if end > c.num_cached:
                if not self._is_in(c, is_first=False) or not self._grow(c, end):
                    return
                self.cache.put(Span(c.blocks, start, end - start, c.near), latents)
                self.confirm(c, end)
            del c.arrivals[0]

    # -- prefixes ----------------------------------------------------------------------------

    def share_prefix(self, c: Conversation) -> int:
        """Take over blocks that others computed for the same beginning; return how many tokens."""
        if c.host is not None or c.num_cached % self.size or c.is_scoring:
            return 0
        held = c.num_cached // self.size
        self._trim(c)
        if len(c.blocks) != held or c.num_new <= self.size:
            return 0
        chain_keys(c.version, c.tokens, c.keys, self.size)
        most = (len(c.tokens) - 1) // self.size  # one token at least is left to compute
        found = held
        while found < most and self.pool.has(c.keys[found]):
            found += 1
        while found > held and not self._is_near_there(c, found):
            found -= 1
        for place in range(held, found):
            block = self.pool.share(c.keys[place])
            assert block is not None
            c.blocks.append(block)
            if self.cache.window is not None:
                seen = self._sees(found * self.size, place)
                near = self.near_pool.share(c.keys[place]) if seen else None
                c.near.append(GONE if near is None else near)
        num = (found - held) * self.size
        c.num_cached += num
        self._pass(c)
        self.stats.num_reused += num
        return num

    def _is_near_there(self, c: Conversation, num: int) -> bool:
        """Whether after `num` blocks sparse attentions find all that they look into."""
        if self.cache.window is None:
            return True
        return all(
            c.near[place] != GONE if place < len(c.near) else self.near_pool.has(c.keys[place])
            for place in range(num)
            if self._sees(num * self.size, place)
        )

    def _sees(self, position: int, place: int) -> bool:
        """Whether a token from `position` on may look into a block of sparse attentions."""
        assert self.cache.window is not None
        sink_end, local_begin = self.cache.window.around(position)
        return place * self.size < sink_end or (place + 1) * self.size > local_begin

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
        num, num_near = (part.shape[1] for part in c.host)
        limit = self.pool.num_blocks if is_first else self.limit
        if not self._make_room(num, num_near, limit, c):
            return False
        c.blocks = [self.pool.take() for _ in range(num)]
        c.near = [b if b == GONE else self.near_pool.take() for b in c.near]
        self.cache.write(c.blocks, [b for b in c.near if b != GONE], c.host)
        c.host = None
        self.stats.num_swapped_in += num
        return True

    def _grow(self, c: Conversation, length: int) -> bool:
        num = -(-length // self.size) - len(c.blocks)
        if num <= 0:
            return True
        num_near = 0 if self.cache.window is None else num
        if not self._make_room(num, num_near, self.pool.num_blocks, c):
            return False
        c.blocks += [self.pool.take() for _ in range(num)]
        c.near += [self.near_pool.take() for _ in range(num_near)]
        return True

    def _make_room(self, num: int, num_near: int, limit: int, c: Conversation) -> bool:
        """Move others out until `num` more blocks stay within `limit`, and `num_near` find room."""

        def is_room() -> bool:
            near = self.near_pool
            return self.pool.num_used + num <= limit and near.num_used + num_near <= near.num_blocks

        if is_room():
            return True
        spare = [
            o for o in self._everyone if o.blocks and not o.is_computing and _order(o) > _order(c)
        ]
        for other in sorted(spare, key=lambda o: (-_order(o), o.last_step)):
            self._move_out(other)
            if is_room():
                return True
        return False

    def _move_out(self, c: Conversation) -> None:
        host = self.cache.read(c.blocks, [block for block in c.near if block != GONE])
        self.stats.num_swapped_out += len(c.blocks)
        self._give_all(c)
        c.host, c.draft = host, None


_IDLE = 1 << 60


def _order(c: Conversation) -> int:
    return c.request.order if c.request is not None else _IDLE
