"""Decoding in fixed shapes: a pass is captured as a CUDA graph once, and replayed.

A pass of a model with an adapter is thousands of launches, which take the host longer than they
take the device. Batches are filled up to a few numbers of rows and a power of two of tokens; a row
that nobody has reads and writes its own first place. Without CUDA the same passes run as they are,
which is how they are tested.

Dimension key: B rows, Q new tokens of each, V words, L tokens of the longest row.
"""

# torch is only partly typed:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ._cache import RowCache
from ._draw import picked

_ROWS = (2, 8, 32, 128)
_LEAST_LENGTH = 64
_LEAST_FILLED = 16

Forward = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Token ids (B, Q), positions (B, Q), a mask (B, 1, Q, L) and the place in Q whose logits are
wanted, (1,), to logits (B, V)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a pass: one new token for each of so many rows, or so many for one of them."""

    num: int
    length: int
    fills: bool


class _Pass:
    """The buffers of one shape, and its graph once there is one."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        self._there = torch.zeros(4, shape.num, dtype=torch.float64, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.has_run = False
        self._last_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.result = torch.empty(0)
        """Of many rows tokens and log-probs, (B, 2); of one that is filled logits, (1, V)."""

    def put(self, columns: Sequence[Sequence[float]]) -> None:
        """Copy ids, places and two columns more to the device.

        Out of memory that nobody writes to again: the device may read it after this has returned.
        """
        here = torch.zeros(self._there.shape, dtype=torch.float64)
        here[:, : len(columns[0])] = torch.tensor(columns, dtype=torch.float64)
        here = here.pin_memory() if self._there.is_cuda else here
        self._there.copy_(here, non_blocking=True)

    def run(self, forward: Forward, cache: RowCache) -> None:
        """Compute the result, all of it on the device."""
        whole = self._there.long()
        if self.shape.fills:
            mask = cache.into(whole[2, :1], whole[1], self.shape.length)
            self.result = forward(whole[:1], whole[1:2], mask, whole[3, :1])
            return
        ids_B1, places_B1 = whole[:2, :, None]
        heat_B1, draws_B1 = self._there[2:, :, None]
        mask = cache.at(places_B1[:, 0], self.shape.length)
        logits_BV = forward(ids_B1, places_B1, mask, self._last_1)
        self.result = torch.cat([x.double() for x in picked(logits_BV, heat_B1, draws_B1)], dim=1)


class StaticDecoder:
    """Decodes for one version.

    Args:
        forward: The version's model over its cache; what it reads stays where it is.
        cache: Its rows have been written to.
        device: Where both are.
    """

    def __init__(self, forward: Forward, cache: RowCache, device: torch.device) -> None:
        self._forward, self._cache, self._device = forward, cache, device
        self._can_capture = device.type == "cuda"
        self.passes: dict[Shape, _Pass] = {}

    def run(
        self, ids: list[int], places: list[int], heat: list[float], draws: list[float]
    ) -> tuple[list[int], list[float]]:
        """Give each of the first rows its last token; return the next ones and their log-probs."""
        most = self._cache.num_rows
        rows = next((n for n in _ROWS if len(ids) <= n < most), most)
        shape = Shape(rows, self._length(max(places) + 1), fills=False)
        pairs = cast("list[list[float]]", self._run(shape, [ids, places, heat, draws]).tolist())
        return [int(token) for token, _ in pairs[: len(ids)]], [log for _, log in pairs[: len(ids)]]

    def fill(self, row: int, ids: list[int], begin: int) -> Tensor | None:
        """Give a row tokens from a place on; return logits (1, V) after the last of them.

        None where the pass, filled up, would go beyond the cache. What it is filled up with lies
        behind the row's end, where the next tokens are written.
        """
        num = max(_LEAST_FILLED, 1 << (len(ids) - 1).bit_length())
        if begin + num > self._cache.capacity:
            return None
        shape = Shape(num, self._length(begin + num), fills=True)
        columns = [[*ids, *[0] * (num - len(ids))], range(begin, begin + num),
                   [row] * num, [len(ids) - 1] * num]  # fmt: skip
        return self._run(shape, columns).clone()

    def _length(self, length: int) -> int:
        power = 1 << (length - 1).bit_length()
        return min(self._cache.capacity, max(_LEAST_LENGTH, power))

    def _run(self, shape: Shape, columns: Sequence[Sequence[float]]) -> Tensor:
        found = self.passes.get(shape)
        if found is None:
            found = self.passes[shape] = _Pass(shape, self._device)
        found.put(columns)
        self._replay(found)
        return found.result

    def _replay(self, one: _Pass) -> None:
        """Run; the second time captures, since the first one makes room and chooses kernels."""
        if one.graph is None and one.has_run and self._can_capture:
            one.graph = self._capture(one)
        if one.graph is None:
            one.run(self._forward, self._cache)
            one.has_run = True
        else:
            one.graph.replay()

    def _capture(self, one: _Pass) -> torch.cuda.CUDAGraph | None:
        """Return the graph; none, now and later, of a model that looks at numbers on the host."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                one.run(self._forward, self._cache)
        except RuntimeError:
            self._can_capture = False
            torch.cuda.synchronize()
            return None
        return graph
