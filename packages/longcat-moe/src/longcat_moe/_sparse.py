"""ZigZag: some attentions see the beginning of a text and what is near, nothing between.

- Positions are counted in blocks of 128. A token sees the first `num_sink` blocks, and its own
  block with the `num_local - 1` before it, as far as they are not in the future.
- Up to `num_sink + num_local` blocks (1,024 tokens) that is full attention, token by token.
- Which attentions are sparse is a string with one digit per attention, `1` for sparse; information
  crosses a long text through the others.

Dimension key: B sequences, H heads, T tokens, Q width of queries and keys, V width of values.

Source: LongCat-Flash-Thinking-2601 report, section 6, equation 3; block sizes as in the released
kernel, the string's key as in the released serving code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a sparse attention sees, in blocks of `block_size` tokens."""

    num_sink: int = 1
    """Blocks at the beginning."""
    num_local: int = 7
    """Blocks up to and with the token's own."""
    block_size: int = 128

    def __post_init__(self) -> None:
        if self.num_sink < 0 or self.num_local < 1 or self.block_size < 1:
            raise ValueError(
                "need num_sink >= 0, num_local >= 1 and block_size >= 1, got "
                f"{self.num_sink}, {self.num_local} and {self.block_size}"
            )

    @property
    def num_tokens(self) -> int:
        """What a token sees at most; shorter texts are seen whole."""
        return (self.num_sink + self.num_local) * self.block_size

    def sees(self, position: Tensor, key: Tensor) -> Tensor:
        """Whether a token at `position` sees one at `key`, causality aside; shapes broadcast."""
        own, other = position // self.block_size, key // self.block_size
        return (other < self.num_sink) | (other > own - self.num_local)

    def around(self, position: int) -> tuple[int, int]:
        """Return where the sink ends and where the local part begins for a token at `position`."""
        local = (position // self.block_size - self.num_local + 1) * self.block_size
        return self.num_sink * self.block_size, max(local, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAttention:
    """Which attentions are sparse, and how; `streaming_sparse_attention` of a `config.json`."""

    layer_type: str
    """One digit per attention, in order of the layers: `1` sparse, `0` full."""
    window: Window = Window()

    def __post_init__(self) -> None:
        if set(self.layer_type) - {"0", "1"}:
            raise ValueError(f"layer_type must be a string of 0 and 1, got {self.layer_type!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SparseAttention:
        """Build from the content of a `config.json`; sizes there are in tokens.

        Raises:
            ValueError: A key is missing, not known or of the wrong kind, or the sizes do not fit.
        """
        names = {"block_size", "sink_size", "recent_size", "sparsity", "layer_type"}
        if not isinstance(values, dict) or set(values) - names or "layer_type" not in values:
            raise ValueError(
                f"config.json: streaming_sparse_attention must hold layer_type, and may hold "
                f"{', '.join(sorted(names))}, got {values!r}"
            )
        window = Window()
        size = values.get("block_size", window.block_size)
        if type(size) is not int or size < 1:
            raise ValueError(f"config.json: block_size must be a whole number, got {size!r}")
        sink = values.get("sink_size", window.num_sink * size)
        recent = values.get("recent_size", window.num_local * size)
        if type(sink) is not int or type(recent) is not int or sink % size or recent % size:
            raise ValueError(
                f"config.json: sink_size={sink} and recent_size={recent} must be multiples of "
                f"block_size={size}"
            )
        window = Window(num_sink=sink // size, num_local=recent // size, block_size=size)
        return cls(layer_type=str(values["layer_type"]), window=window)

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads."""
        size = self.window.block_size
        return {
            "sink_size": self.window.num_sink * size,
            "recent_size": self.window.num_local * size,
            "block_size": size,
            "sparsity": self.layer_type.count("1") / max(1, len(self.layer_type)),
            "layer_type": self.layer_type,
        }


def windowed_attention(
    q_BHTQ: Tensor, k_BHTQ: Tensor, v_BHTV: Tensor, window: Window, *, scale: float
) -> Tensor:
    """Attend causally within a window, (B, H, T, V); memory and time grow with T, not its square.

    One product for each block of queries, with the sink and the local part of the keys alone.
    """
    size, length = window.block_size, q_BHTQ.shape[2]
    outs: list[Tensor] = []
    for begin in range(0, length, size):
        end = min(begin + size, length)
        sink, local = window.around(begin)
        local = max(local, min(sink, begin))
        keys = torch.cat(
            [torch.arange(min(sink, local)), torch.arange(local, end)]
        )  # of both parts, where they do not meet
        k, v = (
            torch.cat([x[:, :, : min(sink, local)], x[:, :, local:end]], dim=2)
            for x in (k_BHTQ, v_BHTV)
        )
        seen_TS = keys <= torch.arange(begin, end)[:, None]
        outs.append(
            nn.functional.scaled_dot_product_attention(
                q_BHTQ[:, :, begin:end], k, v, attn_mask=seen_TS.to(q_BHTQ.device), scale=scale
            )
        )
    return torch.cat(outs, dim=2)
