"""A policy pinned to one version that records exactly what was sampled.

Tokens are extended, never rendered again: the record of a conversation is the engine's own.
Messages that do not continue a conversation begin another one, and another segment.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longcat_dora._types import LongcatDoraError, Sampled, Segment, Worker

from .fork import end_copy

Message = Mapping[str, Any]
_MOST_LOG_PROB = 0.01
"""Rounding may leave a little more than 0."""


@dataclass(slots=True)
class _Conversation:
    """What was said in one context, as messages and as tokens."""

    version: int
    """That the engine answers it with; another one takes over when it is opened anew."""
    engine_id: int | None = None
    is_busy: bool = False
    messages: list[Message] = field(default_factory=list[Message])
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    token_ids: list[int] = field(default_factory=list[int])
    loss_mask: list[bool] = field(default_factory=list[bool])
    log_probs: list[float] = field(default_factory=list[float])
    moves: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    ends: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    is_stale: bool = False
    """Whether the engine may hold other tokens than these: then it is opened anew."""

    def cut(self, num_tokens: int) -> None:
        """Forget what came after the first tokens."""
        for part in (self.token_ids, self.loss_mask, self.log_probs):
            del part[num_tokens:]
        self.moves = [move for move in self.moves if move[0] < num_tokens]
        self.ends = [end for end in self.ends if end[0] <= num_tokens]
        self.is_stale = True

    def record(self, token_ids: Sequence[int], log_probs: Sequence[float] | None) -> None:
        """Append what was given (no log-probs) or sampled."""
        self.token_ids += token_ids
        self.loss_mask += [log_probs is not None] * len(token_ids)
        self.log_probs += [0.0] * len(token_ids) if log_probs is None else log_probs


@dataclass(frozen=True, slots=True)
class Answer:
    """What `Session.answer` returns: a message, and how it came about."""

    message: dict[str, Any]
    finish_reason: str
    num_prompt: int
    """Tokens that were there before it."""
    num_sampled: int
    conversation: _Conversation
    num_messages: int
    """Of the conversation before this exchange."""
    num_tokens: int


class Session:
    """The `Policy` of one trajectory."""

    def __init__(self, worker: Worker, version: int, *, seed: int | None = None) -> None:
        self.first_version = self.version = version
        self.seed = seed
        """Of the attempt: for engines that take one, and for worlds that want the same luck
        again."""
        self._num_opened = 0
        self._worker, self._home = worker, os.getpid()
        self._conversations: list[_Conversation] = []
        self._current: _Conversation | None = None
        """Of `generate`."""
        self.finish_reason: str | None = None
        """Why the last answer ended: `stop`, `length`, or what the engine says."""
        self.problem: str | None = None
        """What the engine returned that cannot be trained on; then the trajectory cannot be
        either."""
        self.num_splits = 0
        """Times that messages came which say otherwise what the policy had said: another segment
        each."""

    @property
    def temperature(self) -> float:
        """That is sampled at."""
        return self._worker.temperature

    @property
    def segments(self) -> list[Segment]:
        """What was given and sampled so far, one for each conversation."""
        return [
            Segment(c.token_ids, c.loss_mask, c.log_probs, c.moves, c.ends)
            for c in self._conversations
            if c.token_ids
        ]

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any] | None:
        """Answer messages that continue a conversation of this session, or begin one.

        They continue it when they begin with all that was said in it, answers included.
        """
        answer = await self.answer(messages, tools=tools)
        return None if answer is None else answer.message

    async def answer(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] = (),
        max_tokens: int | None = None,
    ) -> Answer | None:
        """As `chat`, and say how the answer came about; `None` when no room is left."""
        renderer = self._worker.renderer
        if renderer is None:
            raise RuntimeError("Policy.chat needs Worker(renderer=...)")
        tools = list(tools)
        c = self._continued(messages, tools)
        if c is None:
            self.num_splits += self._is_edited(messages)
            c = self._begin()
            c.tools = tools
            ids = renderer.start(messages, tools)
        else:
            ids = renderer.extend(messages[len(c.messages) :])
        num_messages, num_tokens = len(c.messages), len(c.token_ids)
        sampled = await self._sample(c, ids, max_tokens)
        if not sampled:
            return None
        message = renderer.parse(sampled, tools)
        c.messages = [*messages, message]
        return Answer(
            message, c.ends[-1][1], len(c.token_ids) - len(sampled), len(sampled), c,
            num_messages, num_tokens,
        )  # fmt: skip

    def take_back(self, answer: Answer) -> None:
        """Forget an exchange of which the answer was not heard."""
        c = answer.conversation
        c.cut(answer.num_tokens)
        c.messages = c.messages[: answer.num_messages]

    async def generate(
        self, token_ids: Sequence[int], *, max_tokens: int | None = None
    ) -> list[int]:
        """Append tokens and return the sampled continuation; empty when no room is left."""
        if self._current is None:
            self._current = self._begin()
        return await self._sample(self._current, token_ids, max_tokens)

    def move(self, version: int) -> None:
        """Go on under another version from the next token on."""
        self.version = version
        if not any(c.token_ids or c.is_busy for c in self._conversations):
            self.first_version = version
        interrupt = getattr(self._worker.engine, "interrupt", None)
        for c in self._conversations:
            if c.is_busy and c.engine_id is not None and interrupt is not None:
                interrupt(c.engine_id)

    async def close(self) -> None:
        """Give the engine's slots back."""
        for c in self._conversations:
            await self._close(c)

    # -- parts -------------------------------------------------------------------------------

    def _begin(self) -> _Conversation:
        c = _Conversation(self.first_version)
        self._conversations.append(c)
        return c

    def _is_edited(self, messages: Sequence[Message]) -> bool:
        """Whether messages go on from something that was said here, in other words."""
        for c in self._conversations:
            for own, theirs in zip(c.messages, messages, strict=False):
                if _key(own) != _key(theirs):
                    if own["role"] == theirs["role"] == "assistant":
                        return True
                    break
        return False

    def _continued(
        self, messages: Sequence[Message], tools: list[dict[str, Any]]
    ) -> _Conversation | None:
        """The longest conversation that these messages continue."""
        for c in sorted(self._conversations, key=lambda c: -len(c.messages)):
            num = len(c.messages)
            if c.is_busy or not 0 < num < len(messages) or c.tools != tools:
                continue
            if all(_key(a) == _key(b) for a, b in zip(c.messages, messages, strict=False)):
                return c
        return None

    async def _sample(
        self, c: _Conversation, given: Sequence[int], max_tokens: int | None = None
    ) -> list[int]:
        """Let the engine continue a conversation, under a newer version if it was moved."""
        end_copy(self._home)  # the engine's connections are not a fork's
        sampled: list[int] = []
        _check_ids(given)
        most = min(self._worker.max_tokens, max_tokens or self._worker.max_tokens)
        num_before = len(c.token_ids)
        c.is_busy = True
        try:
            while (budget := most - len(sampled)) > 0:
                new = await self._opened(c, given)
                assert c.engine_id is not None
                result = await self._worker.engine.generate(
                    c.engine_id, new, max_tokens=budget, temperature=self._worker.temperature
                )
                self._check(result)
                if result.token_ids:
                    c.record(given, None)
                    c.record(result.token_ids, result.log_probs)
                    sampled, given = [*sampled, *result.token_ids], []
                self.finish_reason = result.finish_reason
                if result.finish_reason != "interrupted":
                    break
                await self._close(c)
        except BaseException:  # cancelled, too: nobody hears it, so that it is not trained on
            c.cut(num_before)
            raise
        finally:
            c.is_busy = False
        if sampled:
            c.ends.append((len(c.token_ids), self.finish_reason or ""))
        return sampled

    def _check(self, result: Sampled) -> None:
        """Refuse what cannot be trained on, and remember it: a world may swallow the error."""
        try:
            ids, log_probs = result.token_ids, result.log_probs
            if len(ids) != len(log_probs):
                raise ValueError(f"{len(ids)} ids and {len(log_probs)} log-probs")
            _check_ids(ids)
            if ids and not (math.isfinite(sum(log_probs)) and max(log_probs) < _MOST_LOG_PROB):
                raise ValueError("log-probs that are not finite, or above 0")
        except (ValueError, TypeError, OverflowError, AttributeError) as error:
            self.problem = (
                f"the engine must return ids and a log-prob for each, it returned {error}"
            )
            raise LongcatDoraError(self.problem) from error

    async def _opened(self, c: _Conversation, given: Sequence[int]) -> Sequence[int]:
        """See to it that the engine holds a conversation; return what it has not seen of it."""
        if c.engine_id is not None and c.version == self.version and not c.is_stale:
            return given
        await self._close(c)
        # An engine has few slots, and what it computed may be shared.
        for other in self._conversations:
            if not other.is_busy:
                await self._close(other)
        if c.version != self.version:
            c.version = self.version
            c.moves.append((len(c.token_ids), c.version))
        c.engine_id = await self._open_engine(c.version)
        c.is_stale = False
        return [*c.token_ids, *given]

    async def _open_engine(self, version: int) -> int:
        engine = self._worker.engine
        if self.seed is None or not self._worker.takes_seed:
            return await engine.open(version)
        self._num_opened += 1
        seed = zlib.crc32(f"{self.seed}:{self._num_opened}".encode())
        return await engine.open(version, seed=seed)

    async def _close(self, c: _Conversation) -> None:
        if c.engine_id is not None:
            engine_id, c.engine_id = c.engine_id, None
            await self._worker.engine.close(engine_id)


def _check_ids(ids: Sequence[int]) -> None:
    """Refuse what is no token id; `array` converts as the log does.

    Raises:
        ValueError: One is negative. Also `TypeError` and `OverflowError`.
    """
    if any(number < 0 for number in array("i", ids)):
        raise ValueError(f"a negative id among {list(ids)[:8]}")


def _key(message: Message) -> Any:
    """What two messages must have in common to be the same; clients add and drop other fields."""
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    return message["role"], message.get("content") or "", calls, message.get("tool_call_id")


def _call(call: Mapping[str, Any]) -> Any:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
    return function.get("name"), arguments
