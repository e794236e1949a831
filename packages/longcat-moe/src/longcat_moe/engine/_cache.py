"""The cache of compressed latents, in blocks: one line of rows per attention.

Sparse attentions have a store of their own, in which a conversation holds only the blocks that its
next token may still look into. Their part of the cache grows with the window, not with the length.

Dimension key: A attentions, B sequences, T new tokens of each, P new tokens of all, S tokens so
far, N blocks of a sequence, L latent width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longcat_moe._attention import Stretch
from longcat_moe._config import LongcatConfig
from longcat_moe._sparse import Window

from ._settings import EngineConfig

_MAX_PAIRS = 1 << 22
"""Of queries and keys in one product; more are computed one after another."""
_NOWHERE = 1 << 40
"""Where a block that is not there begins: after all positions."""
_WORTH_SPLITTING = 4096
"""Padded rows saved by giving longer sequences a product of their own."""


@dataclass(frozen=True, slots=True)
class Span:
    """New tokens of one conversation: `num` from position `start` on, in `blocks`."""

    blocks: Sequence[int]
    start: int
    num: int
    near: Sequence[int] = ()
    """Where sparse attentions keep theirs; `GONE` for blocks out of their sight."""

    @property
    def end(self) -> int:
        """Position after the last."""
        return self.start + self.num


GONE = -1
"""In place of a block that no later token looks into."""


class LatentCache:
    """`num_blocks` of `block_size` tokens for attentions that see all, `num_near` for others."""

    def __init__(
        self,
        config: LongcatConfig,
        *,
        num_blocks: int,
        num_near: int = 0,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        num = config.num_attentions + config.num_nextn_predict_layers
        self.block_size, self.config = block_size, config
        windows = [config.window_of(index) for index in range(num)]
        self.window = next((window for window in windows if window is not None), None)
        """Of sparse attentions, which all have the same."""
        self.is_near = torch.tensor([window is not None for window in windows])
        self._slots = [windows[:i].count(windows[i]) for i in range(num)]
        """Place of each attention in its store."""

        def store(num_attentions: int, num_blocks: int) -> Tensor:
            shape = (num_attentions, num_blocks, block_size, config.latent_dim)
            return torch.zeros(shape, dtype=dtype, device=device)

        num_sparse = int(self.is_near.sum())
        self.full = store(num - num_sparse, num_blocks)
        self.near = store(num_sparse, num_near if num_sparse else 0)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.full.device

    @property
    def num_bytes(self) -> int:
        """Of both stores."""
        return self.full.nbytes + self.near.nbytes

    def store_of(self, index: int) -> Tensor:
        """Return the blocks of one attention: (N, block size, L)."""
        return (self.near if self.is_near[index] else self.full)[self._slots[index]]

    def read(self, blocks: Sequence[int], near: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Copy blocks of both stores to host memory: (A, N, block size, L) each."""
        full = self.full.index_select(1, self._tensor(blocks)).to("cpu")
        return full, self.near.index_select(1, self._tensor(near)).to("cpu")

    def write(
        self, blocks: Sequence[int], near: Sequence[int], values: tuple[Tensor, Tensor]
    ) -> None:
        """Put what `read` gave into blocks."""
        for store, chosen, value in zip(
            (self.full, self.near), (blocks, near), values, strict=True
        ):
            store.index_copy_(1, self._tensor(chosen), value.to(store))

    def erase(self, blocks: Sequence[int], near: Sequence[int]) -> None:
        """Write zeros into blocks of both stores."""
        for store, chosen in ((self.full, blocks), (self.near, near)):
            if chosen:
                store.index_fill_(1, self._tensor(chosen), 0)

    def rows(self, parts: Sequence[tuple[Span, Sequence[int]]]) -> Tensor:
        """Return where the tokens of spans lie in such blocks, negative where they are gone."""
        size = self.block_size
        return self._tensor(
            [of[p // size] * size + p % size for s, of in parts for p in range(s.start, s.end)]
        )

    def put(self, span: Span, latents: Tensor) -> None:
        """Store latents (A, tokens, L) of a conversation's tokens."""
        for store, blocks, of in self._both(span):
            rows = self.rows([(span, blocks)])
            held = rows >= 0
            values = latents[of][:, held.cpu()].to(store)
            store.flatten(1, 2).index_copy_(1, rows[held], values)

    def get(self, span: Span) -> Tensor:
        """Return latents (A, tokens, L) of a conversation's tokens; 0 where they are gone."""
        shape = (len(self.is_near), span.num, self.config.latent_dim)
        out = torch.zeros(shape, dtype=self.full.dtype, device=self.device)
        for store, blocks, of in self._both(span):
            rows = self.rows([(span, blocks)])
            values = store.flatten(1, 2).index_select(1, rows.clamp_min(0))
            out[of] = values * (rows >= 0)[:, None]
        return out

    def _both(self, span: Span) -> Iterator[tuple[Tensor, Sequence[int], Tensor]]:
        yield self.full, span.blocks, ~self.is_near
        if self.window is not None:
            yield self.near, span.near, self.is_near

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def view(self, spans: Sequence[Span]) -> PackedView:
        """Open blocks for new tokens, packed in the order of `spans`."""
        return PackedView(self, spans)


def num_near_blocks(config: LongcatConfig, block_size: int) -> int:
    """Blocks that sparse attentions look into from one token, at most; 0 without them."""
    sparse = config.sparse_attention
    if sparse is None:
        return 0
    sink, local = sparse.window.num_sink, sparse.window.num_local
    # One more for a local part that begins within a block.
    return sum(-(-num * sparse.window.block_size // block_size) for num in (sink, local)) + 1


class PackedView:
    """What one forward pass sees of the cache: see `CacheView`.

    Sequences that are alike in new tokens and in length are one stretch, padded to the longest.
    """

    def __init__(self, cache: LatentCache, spans: Sequence[Span]) -> None:
        self.cache, self.spans = cache, spans
        positions = [p for span in spans for p in range(span.start, span.end)]
        self.positions_P = torch.tensor(positions, device=cache.device)
        self._rows_P = cache.rows([(s, s.blocks) for s in spans])
        self._near_rows_P = self._rows_P
        if cache.window is not None:
            self._near_rows_P = cache.rows([(s, s.near) for s in spans])
        ends = itertools.accumulate((span.num for span in spans), initial=0)
        self.first = list(ends)[:-1]
        """Where each sequence's first new token stands."""
        self._stretches: dict[Window | None, list[_Piece]] = {}

    def extend(self, index: int, latent_PL: Tensor) -> Iterator[Stretch]:
        """Store new latents; return what each new token may see of all so far."""
        store, window = self.cache.store_of(index), self.cache.config.window_of(index)
        rows_P = self._rows_P if window is None else self._near_rows_P
        store.flatten(0, 1).index_copy_(0, rows_P, latent_PL.to(store.dtype))
        if window not in self._stretches:
            self._stretches[window] = list(self._pieces(window))
        for piece in self._stretches[window]:
            latents = store.index_select(0, piece.table.flatten())
            latents_BSL = latents.view(len(piece.rows_BT), -1, latents.shape[-1])
            yield Stretch(piece.rows_BT, latents_BSL, piece.bias_BTS)

    def _pieces(self, window: Window | None) -> Iterator[_Piece]:
        """Cut the batch into products."""
        for group in _alike(self.spans, self.cache.block_size):
            width = max(self.spans[i].num for i in group)
            length = max(self.spans[i].end for i in group)
            step = max(1, _MAX_PAIRS // (len(group) * length))
            for begin in range(0, width, step):
                yield self._piece(group, begin, min(width, begin + step), window)

    def _piece(self, group: list[int], begin: int, end: int, window: Window | None) -> _Piece:
        """New tokens `begin` to `end` of a group's sequences; a shorter one repeats its last."""
        device, size = self.cache.device, self.cache.block_size
        spans = [self.spans[i] for i in group]
        step_T = torch.arange(begin, end)
        num_B1 = torch.tensor([[span.num] for span in spans])
        first_B1 = torch.tensor([[self.first[i]] for i in group])
        start_B1 = torch.tensor([[span.start] for span in spans])
        within_BT = step_T.minimum(num_B1 - 1)
        rows_BT, position_BT = first_B1 + within_BT, start_B1 + within_BT
        seen = [self._seen(span, begin, end, window) for span in spans]
        longest = max(map(len, seen))
        held = [span.blocks if window is None else span.near for span in spans]
        # Filled up with a block of one's own: hidden, but zero times another's NaN would be NaN.
        table = torch.tensor(
            [
                [of[n] for n in ns] + [of[ns[0]]] * (longest - len(ns))
                for of, ns in zip(held, seen, strict=True)
            ]
        )
        begins = torch.tensor(
            [[n * size for n in ns] + [_NOWHERE] * (longest - len(ns)) for ns in seen]
        )
        key_BS = (begins[..., None] + torch.arange(size)).flatten(1)
        hidden_BTS = key_BS[:, None] > position_BT[..., None]
        if window is not None:
            hidden_BTS |= ~window.sees(position_BT[..., None], key_BS[:, None])
        bias_BTS = torch.zeros(hidden_BTS.shape, dtype=self.cache.full.dtype)
        bias_BTS.masked_fill_(hidden_BTS, float("-inf"))
        return _Piece(rows_BT.to(device), table.to(device), bias_BTS.to(device))

    def _seen(self, span: Span, begin: int, end: int, window: Window | None) -> list[int]:
        """Blocks that new tokens `begin` to `end` of a sequence may look into."""
        size = self.cache.block_size
        first, last = span.start + min(begin, span.num - 1), span.start + min(end, span.num) - 1
        blocks = range(last // size + 1)
        if window is None:
            return list(blocks)
        sink_end, local_begin = window.around(first)
        return [n for n in blocks if n * size < sink_end or (n + 1) * size > local_begin]


@dataclass(frozen=True, slots=True)
class _Piece:
    rows_BT: Tensor
    table: Tensor  # (B, N)
    bias_BTS: Tensor


def _alike(spans: Sequence[Span], block_size: int) -> Iterator[list[int]]:
    """Group sequences so that padding stays small: single tokens, then by new tokens and length."""
    singles = sorted((s.end, i) for i, s in enumerate(spans) if s.num == 1)
    several = sorted((s.num, s.end, i) for i, s in enumerate(spans) if s.num > 1)
    group: list[int] = []
    for end, i in singles:
        if group and end > 2 * spans[group[0]].end and len(group) * end >= _WORTH_SPLITTING:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
    group = []
    for num, end, i in several:
        if group:
            first = spans[group[0]]
            padded = len(group) * (num * end - first.num * first.end)
            if num > 2 * first.num and padded >= _WORTH_SPLITTING * 16:
                yield group
                group = []
        group.append(i)
    if group:
        yield group


def make_cache(config: LongcatConfig, settings: EngineConfig, *, max_chunk: int) -> LatentCache:
    """Return a cache for an engine whose steps compute at most `max_chunk` tokens of prompts."""
    num_slots, size, num_blocks = settings.num_slots, settings.block_size, settings.num_blocks
    num_near = num_slots * num_near_blocks(config, size) + max_chunk // size
    return LatentCache(
        config,
        num_blocks=num_blocks,
        num_near=min(num_blocks, num_near + num_slots),
        block_size=size,
        dtype=settings.dtype,
        device=settings.device,
    )
