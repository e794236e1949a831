"""What an engine is asked for, what it answers, and what it keeps of a conversation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from torch import Tensor

from ._sampling import Said, SamplingParams


class EngineFullError(RuntimeError):
    """More conversations wait than the engine was told to let wait."""


class RequestFailedError(RuntimeError):
    """A request could not be computed; it alone ends, and its conversation is as before it."""


class EngineDeadError(RuntimeError):
    """The engine cannot compute any more; `Engine.failure` says why."""


TopLogProbs = list[tuple[int, float]]
"""Token ids with their log-probabilities, the most probable first."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model says of one prompt token."""

    log_prob: float | None
    """None for a conversation's first token, which nothing predicts."""
    top: TopLogProbs


@dataclass(frozen=True, slots=True)
class Generation:
    """What was sampled."""

    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    """`stop` (a stop id or a stop string), `length` (no room or no tokens left), `timeout` or
    `interrupted`."""
    top_log_probs: list[TopLogProbs] = field(default_factory=list[TopLogProbs])
    """For each token, where `num_top_log_probs` asked for some."""
    prompt: list[Scored] = field(default_factory=list[Scored])
    """For each token given in this turn, where `prompt_log_probs` asked."""


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token of a stream; the last one says why it is the last."""

    token_id: int
    log_prob: float
    finish_reason: str | None
    top_log_probs: TopLogProbs = field(default_factory=TopLogProbs)


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
    num_requests: int = 0
    num_failed: int = 0
    """Requests that could not be computed."""

    @property
    def acceptance_rate(self) -> float:
        """Share of guesses that were right."""
        return self.num_accepted / max(1, self.num_drafted)


class Draws:
    """Uniform numbers of a conversation, which a step that failed can take back.

    Example:
        >>> draws = Draws("seed")
        >>> first = draws.random()
        >>> draws.rewind()
        >>> draws.random() == first
        True
    """

    def __init__(self, source: str) -> None:
        self._rng = Random(source)
        self._taken: list[float] = []
        self._ahead: deque[float] = deque()

    def random(self) -> float:
        """Return the next number in [0, 1)."""
        number = self._ahead.popleft() if self._ahead else self._rng.random()
        self._taken.append(number)
        return number

    def many(self, num: int) -> list[float]:
        """Return as many numbers as `random` would give one by one."""
        ahead = min(num, len(self._ahead))
        drawn = [self._ahead.popleft() for _ in range(ahead)]
        draw = self._rng.random
        drawn += [draw() for _ in range(num - ahead)]
        self._taken += drawn
        return drawn

    def keep(self) -> None:
        """Let what was drawn stand."""
        self._taken.clear()

    def unread(self, num: int) -> None:
        """Give back the last `num` numbers drawn since the last `keep`."""
        for _ in range(num):
            self._ahead.appendleft(self._taken.pop())

    def rewind(self) -> None:
        """Give back what was drawn since the last `keep`."""
        self._ahead.extendleft(reversed(self._taken))
        self._taken.clear()


@dataclass(slots=True)
class Request:
    """One turn: sampled until something stops it."""

    order: int
    """Earlier requests go first."""
    params: SamplingParams
    future: asyncio.Future[Generation]
    stop_ids: frozenset[int]
    max_tokens: int
    """What the conversation has room for, at most."""
    begin: int
    """Place of its first token in the conversation."""
    num_given: int
    """Tokens of its prompt."""
    deadline: float | None = None
    stream: asyncio.Queue[Token | BaseException | None] | None = None
    token_ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    top_log_probs: list[TopLogProbs] = field(default_factory=list[TopLogProbs])
    prompt: list[Scored] = field(default_factory=list[Scored])

    def answer(self, reason: str) -> Generation:
        """Return what was sampled until now."""
        return Generation(self.token_ids, self.log_probs, reason, self.top_log_probs, self.prompt)


@dataclass(slots=True)
class Draft:
    """A guess of the token after the last one, and the distribution it was drawn from."""

    token_id: int
    probs_W: Tensor


@dataclass(slots=True)
class Conversation:
    """Tokens so far, and where their latents lie."""

    version: int
    rng: Draws
    identifier: int = 0
    """What the engine's caller knows it by."""
    tokens: list[int] = field(default_factory=list[int])
    num_cached: int = 0
    """Tokens whose latents are computed."""
    blocks: list[int] = field(default_factory=list[int])
    near: list[int] = field(default_factory=list[int])
    """Blocks of sparse attentions, by place; `GONE` where no later token looks."""
    num_passed: int = 0
    """Places before which all that is out of their sight has been given back."""
    host: tuple[Tensor, Tensor] | None = None
    """Latents that were moved out, (attentions, blocks, block size, width), of both stores."""
    keys: list[bytes] = field(default_factory=list[bytes])
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

    @property
    def is_scoring(self) -> bool:
        """Whether log-probs of its prompt are wanted, so that all of it must be computed."""
        return self.request is not None and self.request.params.prompt_log_probs is not None

    def said(self) -> Said:
        """Return what was said, for penalties and constraints."""
        sampled: Sequence[int] = () if self.request is None else self.request.token_ids
        return Said(self.tokens[: len(self.tokens) - len(sampled)], sampled)
