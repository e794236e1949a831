"""Keys and values of many conversations, each in a row of its own length, written in place.

transformers' own caches keep all rows at one length, so that rows that come and go are padded and
copied at every step. Here a row is written where it ends; rows in use are the first ones, so that a
batch is a view.

Dimension key: R rows, H heads, C capacity in tokens, D width of a head, B rows of a batch, Q new
tokens.
"""

# transformers' caches are only partly typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin  # noqa: TID253 - what this is for

Kept = list[tuple[Tensor, Tensor]]
"""One conversation's keys and values, (H, length, D) each, by layer."""


class RowCache(Cache):
    """The cache of one version; see `at` and `one`."""

    def __init__(self, num_layers: int, num_rows: int, capacity: int) -> None:
        self.num_rows, self.capacity = num_rows, capacity
        self.positions: Tensor | None = None
        """Of a decoding batch: where each of the first rows is written."""
        self.row, self.length = 0, 0
        """Otherwise: the row that is filled, and how much of it is."""
        self.filled: tuple[Tensor, Tensor] | None = None
        """Or both as tensors: the row, and the places of what is new."""
        self.longest = 0
        super().__init__(layers=[_Layer(self) for _ in range(num_layers)])

    def at(self, positions_B: Tensor, longest: int) -> Tensor:
        """Let the next pass give one token to each of the first rows, at its position.

        Return its mask, (B, 1, 1, longest); no position is beyond `longest`.
        """
        self.positions, self.filled, self.longest = positions_B, None, longest
        places = torch.arange(longest, device=positions_B.device)
        return (places <= positions_B[:, None])[:, None, None]

    def one(self, row: int, length: int, num: int, device: torch.device) -> Tensor:
        """Let the next pass give `num` tokens to one row.

        Return its mask, (1, 1, num, length + num).
        """
        self.positions, self.filled = None, None
        self.row, self.length, self.longest = row, length, length + num
        places = torch.arange(self.longest, device=device)
        return (places <= places[length:, None])[None, None]

    def into(self, row_1: Tensor, places_Q: Tensor, longest: int) -> Tensor:
        """Let the next pass give one row tokens at places that only the device knows.

        Return its mask, (1, 1, Q, longest); no place is beyond `longest`.
        """
        self.positions, self.filled, self.longest = None, (row_1, places_Q), longest
        places = torch.arange(longest, device=places_Q.device)
        return (places <= places_Q[:, None])[None, None]

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a row begin as another one does."""
        for layer in self.rows:
            layer.buffers[0][target, :, :length] = layer.buffers[0][source, :, :length]
            layer.buffers[1][target, :, :length] = layer.buffers[1][source, :, :length]

    def keep(self, row: int, length: int) -> Kept:
        """Take a row out."""
        return [
            (layer.buffers[0][row, :, :length].clone(), layer.buffers[1][row, :, :length].clone())
            for layer in self.rows
        ]

    def put(self, row: int, kept: Kept) -> None:
        """Put back what was kept."""
        for layer, (keys, values) in zip(self.rows, kept, strict=True):
            layer.allocate(keys[None], values[None])
            layer.buffers[0][row, :, : keys.shape[1]] = keys
            layer.buffers[1][row, :, : keys.shape[1]] = values

    @property
    def rows(self) -> list[_Layer]:
        """Its layers, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, _Layer)]


class _Layer(CacheLayerMixin):
    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache
        self.buffers: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: see `allocate`."""

    def allocate(self, keys: Tensor, values: Tensor) -> None:
        """Make room when it is known of what shape."""
        if not self.buffers:
            for like in (keys, values):
                shape = self.cache.num_rows, like.shape[1], self.cache.capacity, like.shape[3]
                self.buffers.append(torch.zeros(shape, dtype=like.dtype, device=like.device))
            self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write what is new, (B, H, Q, D); return all of these rows."""
        cache = self.cache
        self.allocate(key_states, value_states)
        held: list[Tensor] = []
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            if cache.filled is not None:
                row_1, places_Q = cache.filled
                buffer[row_1, :, places_Q] = new[0].transpose(0, 1)
                held.append(buffer.index_select(0, row_1)[:, :, : cache.longest])
            elif cache.positions is None:
                buffer[cache.row, :, cache.length : cache.longest] = new[0]
                held.append(buffer[cache.row : cache.row + 1, :, : cache.longest])
            else:
                num = len(cache.positions)
                buffer[torch.arange(num, device=new.device), :, cache.positions] = new[:, :, 0]
                held.append(buffer[:num, :, : cache.longest])
        return held[0], held[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset; masks are given ready, so that nobody acts on it."""
        return self.cache.longest, 0

    def get_seq_length(self) -> int:
        """Tokens before this pass; positions are given ready."""
        return self.cache.longest - 1

    def get_max_length(self) -> int:
        """Tokens that a row holds."""
        return self.cache.capacity
