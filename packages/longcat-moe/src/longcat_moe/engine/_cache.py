"""The cache of compressed latents, in blocks: one line of rows per attention.

Dimension key: A attentions, B sequences, T new tokens of each, P new tokens of all, S tokens so far,
N blocks of a sequence, L latent width.
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

    @property
    def end(self) -> int:
        """Position after the last."""
        return self.start + self.num


class LatentCache:
    """`num_blocks` blocks of `block_size` tokens for all attentions."""

    def __init__(
        self,
        config: LongcatConfig,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        num = config.num_attentions + config.num_nextn_predict_layers
        self.block_size, self.config = block_size, config
        shape = (num, num_blocks, block_size, config.latent_dim)
        self.latents = torch.zeros(shape, dtype=dtype, device=device)

    def read(self, blocks: Sequence[int]) -> Tensor:
        """Copy blocks to host memory: (A, N, block size, L)."""
        chosen = torch.tensor(blocks, device=self.latents.device)
        return self.latents.index_select(1, chosen).to("cpu")

    def write(self, blocks: Sequence[int], values: Tensor) -> None:
        """Put what `read` gave into blocks."""
        chosen = torch.tensor(blocks, device=self.latents.device)
        self.latents.index_copy_(1, chosen, values.to(self.latents))

    def rows(self, blocks: Sequence[int], start: int, end: int) -> Tensor:
        """Return where tokens `start` to `end` of a conversation lie, among all rows."""
        size = self.block_size
        rows = [blocks[p // size] * size + p % size for p in range(start, end)]
        return torch.tensor(rows, device=self.latents.device)

    def store(self, blocks: Sequence[int], start: int, latents: Tensor) -> None:
        """Put latents (A, tokens, L) where a conversation's tokens from `start` on lie."""
        rows = self.rows(blocks, start, start + latents.shape[1])
        self.latents.flatten(1, 2).index_copy_(1, rows, latents.to(self.latents))

    def view(self, spans: Sequence[Span]) -> PackedView:
        """Open blocks for new tokens, packed in the order of `spans`."""
        return PackedView(self, spans)


class PackedView:
    """What one forward pass sees of the cache: see `CacheView`.

    Sequences that are alike in new tokens and in length are one stretch, padded to the longest.
    """

    def __init__(self, cache: LatentCache, spans: Sequence[Span]) -> None:
        self.cache, self.spans = cache, spans
        device, size = cache.latents.device, cache.block_size
        positions, rows = [], []
        for span in spans:
            positions += range(span.start, span.end)
            rows += [span.blocks[p // size] * size + p % size for p in range(span.start, span.end)]
        self.positions_P = torch.tensor(positions, device=device)
        self._rows_P = torch.tensor(rows, device=device)
        ends = itertools.accumulate((span.num for span in spans), initial=0)
        self.first = list(ends)[:-1]
        """Where each sequence's first new token stands."""
        self._stretches: dict[Window | None, list[_Piece]] = {}

    def extend(self, index: int, latent_PL: Tensor) -> Iterator[Stretch]:
        """Store new latents; return what each new token may see of all so far."""
        store = self.cache.latents[index]
        store.flatten(0, 1).index_copy_(0, self._rows_P, latent_PL.to(store.dtype))
        window = self.cache.config.window_of(index)
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
        device, size = self.cache.latents.device, self.cache.block_size
        spans = [self.spans[i] for i in group]
        step_T = torch.arange(begin, end)
        num_B1 = torch.tensor([[span.num] for span in spans])
        first_B1 = torch.tensor([[self.first[i]] for i in group])
        start_B1 = torch.tensor([[span.start] for span in spans])
        within_BT = step_T.minimum(num_B1 - 1)
        rows_BT, position_BT = first_B1 + within_BT, start_B1 + within_BT
        seen = [self._seen(span, begin, end, window) for span in spans]
        longest = max(map(len, seen))
        table = torch.tensor(
            [[span.blocks[n] for n in ns] + [0] * (longest - len(ns)) for span, ns in zip(spans, seen, strict=True)]
        )  # fmt: skip
        begins = torch.tensor(
            [[n * size for n in ns] + [_NOWHERE] * (longest - len(ns)) for ns in seen]
        )
        key_BS = (begins[..., None] + torch.arange(size)).flatten(1)
        hidden_BTS = key_BS[:, None] > position_BT[..., None]
        if window is not None:
            hidden_BTS |= ~window.sees(position_BT[..., None], key_BS[:, None])
        bias_BTS = torch.zeros(hidden_BTS.shape, dtype=self.cache.latents.dtype)
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
