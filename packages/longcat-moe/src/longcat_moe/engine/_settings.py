"""What an engine is built with, checked whole before any memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from longcat_moe._config import LongcatConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes and habits of an `Engine`.

    Example:
        >>> EngineConfig(num_slots=8, max_length=256).num_blocks
        128

    Raises:
        ValueError: A size is out of range.
    """

    num_slots: int = 32
    """Conversations open at once; further ones wait."""
    max_length: int = 1024
    """Tokens of a conversation, prompt included."""
    seed: int = 0
    """With the same requests in the same order, the same tokens."""
    cache_tokens: int | None = None
    """Tokens that the cache holds; enough for all slots when absent. With less, conversations are
    moved to host memory and back. Sparse attentions always have room for the windows of all slots,
    and never more than this."""
    watermark: float = 0.95
    """Share of the cache above which nobody begins or comes back, in (0, 1]."""
    block_size: int = 16
    """Tokens that are shared, and moved, together."""
    chunk_tokens: int = 2048
    """Prompt tokens computed in one step."""
    max_waiting: int | None = None
    """Conversations that may wait for a slot; any number when absent."""
    speculate: bool = False
    """Let the multi-token prediction head guess, and the model check: same distribution, fewer
    steps."""
    pack: bool = True
    """Keep a second, packed copy of the matrices on CPU, which is faster (see `pack`)."""
    dtype: torch.dtype = torch.float32
    """Of the cache and of the models."""
    device: torch.device | str = "cpu"
    """Where the cache and loaded weights live."""
    decode_steps: int | None = None
    """Tokens that everyone samples, where nobody else waits, before the host looks: in fixed
    shapes, captured as graphs on CUDA. 0 for the ordinary step alone. When absent: 0, and on CUDA
    16, or 32 for one conversation alone, whose place nobody wants."""
    threaded: bool = False
    """Compute in a thread, so that the event loop stays free: for servers."""

    def __post_init__(self) -> None:
        self._check_kinds()
        if (
            self.num_slots < 1
            or self.max_length < 2
            or self.block_size < 1
            or self.chunk_tokens < 1
        ):
            raise ValueError(
                "need num_slots, block_size, chunk_tokens >= 1 and max_length >= 2, got "
                f"{self.num_slots}, {self.block_size}, {self.chunk_tokens} and {self.max_length}"
            )
        if self.decode_steps is not None and not 0 <= self.decode_steps <= 256:
            raise ValueError(f"decode_steps must be in [0, 256], got {self.decode_steps}")
        if not 0 < self.watermark <= 1:
            raise ValueError(f"watermark must be in (0, 1], got {self.watermark}")
        if self.max_waiting is not None and self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {self.max_waiting}")
        if self.num_blocks < self.blocks_per_slot:
            raise ValueError(
                "cache_tokens must hold one conversation, "
                f"{self.blocks_per_slot * self.block_size} "
                f"tokens, got {self.cache_tokens}"
            )

    def _check_kinds(self) -> None:
        sizes = (self.num_slots, self.max_length, self.block_size, self.chunk_tokens)
        if not all(type(size) is int for size in sizes):
            raise ValueError(
                "num_slots, max_length, block_size and chunk_tokens must be whole numbers, got "
                f"{', '.join(map(repr, sizes))}"
            )
        for name in ("cache_tokens", "max_waiting", "decode_steps"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                raise ValueError(f"{name} must be a whole number or absent, got {value!r}")
        if type(self.watermark) not in (int, float):
            raise ValueError(f"watermark must be a number, got {self.watermark!r}")
        for name in ("speculate", "pack", "threaded"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a torch.dtype of floating point, got {self.dtype!r}")

    def num_ahead(self, num_conversations: int) -> int:
        """`decode_steps`, or what it is when absent, for so many at once."""
        if self.decode_steps is not None:
            return self.decode_steps
        if torch.device(self.device).type != "cuda":
            return 0
        return 32 if num_conversations == 1 else 16

    @property
    def blocks_per_slot(self) -> int:
        """Blocks of the longest conversation: `ceil(max_length / block_size)`."""
        return -(-self.max_length // self.block_size)

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache."""
        if self.cache_tokens is None:
            return self.num_slots * self.blocks_per_slot
        return self.cache_tokens // self.block_size

    def check_model(self, config: LongcatConfig) -> None:
        """Check what depends on the architecture.

        Raises:
            ValueError: The config has no head to speculate with.
        """
        if self.speculate and not config.num_nextn_predict_layers:
            raise ValueError("speculate needs a config with num_nextn_predict_layers=1, got 0")
