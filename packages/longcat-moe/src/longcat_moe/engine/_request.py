"""What an engine is asked for, what it answers, and what it keeps of a conversation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from ._sampling import SamplingParams


class EngineFullError(RuntimeError):
    """More conversations wait than the engine was told to let wait."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What was sampled."""

    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    """`stop` (a stop id or a stop string), `length` (no room or no tokens left), `timeout` or
    `interrupted`."""


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token of a stream; the last one says why it is the last."""

    token_id: int
    log_prob: float
    finish_reason: str | None


@dataclass(slots=True)
class EngineStats:
    """Counters since the start."""

    num_steps: int = 0
    num_prefilled: int = 0
    num_reused: int = 0
    """Prompt tokens that were not computed again."""
    num_sampled: int = 0
    num_drafted: int = 0
    """Tokens guessed by the multi-token prediction head."""
    num_accepted: int = 0
    num_swapped_out: int = 0
    """Blocks moved to host memory."""
    num_swapped_in: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Share of guesses that were right."""
        return self.num_accepted / max(1, self.num_drafted)


@dataclass(slots=True)
class Request:
    """One turn: sampled until something stops it."""

    order: int
    """Earlier requests go first."""
    params: SamplingParams
    future: asyncio.Future[Generation]
    stop_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    stream: asyncio.Queue[Token | None] | None = None
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """A guess of the token after the last one, and the distribution it was drawn from."""

    token_id: int
    probs_W: Tensor


@dataclass(slots=True)
class Conversation:
    """Tokens so far, and where their latents lie."""

    version: int
    rng: Random
    tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    """Tokens whose latents are computed."""
    blocks: list[int] = field(default_factory=list)
    near: list[int] = field(default_factory=list)
    """Blocks of sparse attentions, by place; `GONE` where no later token looks."""
    num_passed: int = 0
    """Places before which all that is out of their sight has been given back."""
    host: tuple[Tensor, Tensor] | None = None
    """Latents that were moved out, (attentions, blocks, block size, width), of both stores."""
    keys: list[bytes] = field(default_factory=list)
    request: Request | None = None
    draft: Draft | None = None
    last_step: int = 0
    is_closed: bool = False
    is_computing: bool = False
    arrivals: list[tuple[int, Tensor]] | None = None
    """Latents that a prefill process sent, and where they begin; none when nothing is awaited."""

    @property
    def num_new(self) -> int:
        """Tokens that the next forward pass must compute."""
        return len(self.tokens) - self.num_cached
