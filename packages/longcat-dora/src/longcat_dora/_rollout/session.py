"""A policy pinned to one version that records exactly what was sampled.

Tokens are extended, never rendered again: the record of a conversation is the engine's own. Messages that
do not continue a conversation begin another one, and another segment.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longcat_dora._types import Segment, Worker

Message = Mapping[str, Any]


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

    def record(self, token_ids: Sequence[int], log_probs: Sequence[float] | None) -> None:
        """Append what was given (no log-probs) or sampled."""
        self.token_ids += token_ids
        self.loss_mask += [log_probs is not None] * len(token_ids)
        self.log_probs += [0.0] * len(token_ids) if log_probs is None else log_probs


class Session:
    """The `Policy` of one trajectory."""

    def __init__(self, worker: Worker, version: int, *, seed: int | None = None) -> None:
        self.first_version = self.version = version
        self.seed = seed
        """Of the attempt: for engines that take one, and for worlds that want the same luck again."""
        self._num_opened = 0
        self._worker = worker
        self._conversations: list[_Conversation] = []
        self._current: _Conversation | None = None
        """Of `generate`."""

    @property
    def segments(self) -> list[Segment]:
        """What was given and sampled so far, one for each conversation."""
        return [
            Segment(c.token_ids, c.loss_mask, c.log_probs, c.moves)
            for c in self._conversations
            if c.token_ids
        ]

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Answer messages that continue a conversation of this session, or begin one.

        They continue it when they begin with all that was said in it, answers included.
        """
        renderer = self._worker.renderer
        if renderer is None:
            raise RuntimeError("Policy.chat needs Worker(renderer=...)")
        tools = list(tools)
        c = self._continued(messages, tools)
        if c is None:
            c = self._begin()
            c.tools = tools
            ids = renderer.start(messages, tools)
        else:
            ids = renderer.extend(messages[len(c.messages) :])
        sampled = await self._sample(c, ids)
        if not sampled:
            return None
        answer = renderer.parse(sampled, tools)
        c.messages = [*messages, answer]
        return answer

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
        """Let the engine continue a conversation, under a newer version if it was moved meanwhile."""
        sampled: list[int] = []
        most = min(self._worker.max_tokens, max_tokens or self._worker.max_tokens)
        c.is_busy = True
        try:
            while (budget := most - len(sampled)) > 0:
                new = await self._opened(c, given)
                assert c.engine_id is not None
                result = await self._worker.engine.generate(
                    c.engine_id, new, max_tokens=budget, temperature=self._worker.temperature
                )
                if result.token_ids:
                    c.record(given, None)
                    c.record(result.token_ids, result.log_probs)
                    sampled, given = sampled + result.token_ids, []
                if result.finish_reason != "interrupted":
                    break
                await self._close(c)
        finally:
            c.is_busy = False
        return sampled

    async def _opened(self, c: _Conversation, given: Sequence[int]) -> Sequence[int]:
        """See to it that the engine holds a conversation; return what it has not seen of it."""
        if c.engine_id is not None and c.version == self.version:
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
