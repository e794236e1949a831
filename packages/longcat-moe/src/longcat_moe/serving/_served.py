"""What is served, and how requests become conversations of the engine."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from longcat_moe._chat import ChatFormat
from longcat_moe.engine import Engine, EngineFullError

from ._body import off_loop
from ._errors import as_api_error, too_long, unknown_model

T = TypeVar("T")
_RETRY_S = 0.02


@dataclass(slots=True)
class Served:
    """One model behind the server, and under which weights now."""

    engine: Engine
    chat: ChatFormat
    model: str
    version: int
    """Of the engine's weights."""
    max_tokens: int
    """Of an answer, where the client says nothing."""
    timeout_s: float | None
    max_body_bytes: int
    label: int = 0
    """What clients call the weights."""
    newest: int = 0
    """The newest version that the engine was given."""
    created: int = field(default_factory=lambda: int(time.time()))
    ids: itertools.count[int] = field(default_factory=itertools.count)
    longest_token: int = 0
    """Characters of a token, at most."""

    def __post_init__(self) -> None:
        self.label = self.newest = self.version
        self.longest_token = max(map(len, self.chat.tokenizer.get_vocab()), default=1)

    def check_model(self, body: Any) -> None:
        """Check that a request asks for this model, or for none."""
        name = body.get("model")
        if name is not None and name != self.model:
            raise unknown_model(name, self.model)

    async def encode(self, text: str, param: str) -> list[int]:
        """Return the tokens of a text.

        Raises:
            ApiError: It is certainly too long: that many characters are not even tokenised.
        """
        self.check_chars(len(text), param)
        return await off_loop(len(text), self.chat.encode, text)

    async def encode_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        *,
        enable_thinking: bool = True,
    ) -> list[int]:
        """Return the tokens of a chat: messages, thoughts, calls and tools.

        Raises:
            ApiError: It is certainly too long.
        """
        pieces = self.chat.pieces(messages, tools, keep_thoughts=False)
        size = sum(len(piece.text) for piece in pieces)
        self.check_chars(size, "messages")
        start = partial(self.chat.start, enable_thinking=enable_thinking, keep_thoughts=False)
        return await off_loop(size, start, messages, tools)

    def check_chars(self, num: int, param: str) -> None:
        """Check that so many characters may be a prompt, before they are tokenised."""
        if num > self.engine.max_length * self.longest_token:
            least = -(-num // self.longest_token)
            raise too_long(least, self.engine.max_length, param, at_least=True)

    def check_length(self, prompt: Sequence[int], param: str, *, room: int = 1) -> None:
        """Check that a prompt leaves room for an answer, or for none."""
        if len(prompt) > self.engine.max_length - 2 * room:
            raise too_long(len(prompt), self.engine.max_length, param)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of tokens."""
        return self.chat.tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def decode_each(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token alone."""
        return [self.decode([token]) for token in ids]

    def new_id(self, kind: str) -> str:
        """Return a name that no other answer has."""
        return f"{kind}-{time.time_ns():x}-{next(self.ids)}"


class Fan:
    """The conversations of one request: no more at once than there are slots.

    The first one is refused where too many wait already. Later ones of the same request wait for
    their turn, so that a request with many prompts is not refused because of itself.
    """

    def __init__(self, served: Served) -> None:
        self.engine, self.version = served.engine, served.version
        self._limit = asyncio.Semaphore(max(1, served.engine.settings.num_slots))
        self._num_open = self._num_done = 0

    @asynccontextmanager
    async def conversation(self, seed: int | None) -> AsyncIterator[int]:
        """Open a conversation, and close it at the end."""
        async with self._limit:
            identifier = await self._open(seed)
            self._num_open += 1
            try:
                yield identifier
            finally:
                self._num_open -= 1
                self._num_done += 1
                await self.engine.close(identifier)

    async def _open(self, seed: int | None) -> int:
        while True:
            try:
                return await self.engine.open(self.version, seed=seed)
            except EngineFullError:
                if not self._num_open and not self._num_done:
                    raise
                await asyncio.sleep(_RETRY_S)


async def gather(jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Return the results of all jobs in order; when one fails, the others end too."""
    tasks = [asyncio.ensure_future(job()) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def merge(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield what several sources give, as it comes; none runs ahead of the reader."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for item in source:
                yield item
        return
    queue: asyncio.Queue[tuple[T | None, BaseException | None, bool]] = asyncio.Queue(1)

    async def pump(source: AsyncGenerator[T, None]) -> None:
        try:
            async for item in source:
                await queue.put((item, None, False))
            await queue.put((None, None, True))
        except Exception as error:
            await queue.put((None, error, True))

    tasks = [asyncio.ensure_future(pump(source)) for source in sources]
    try:
        num_left = len(tasks)
        while num_left:
            item, error, is_end = await queue.get()
            if error is not None:
                raise error
            num_left -= is_end
            if not is_end:
                yield item  # pyright: ignore[reportReturnType]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in sources:
            await source.aclose()


class EventStream(StreamingResponse):
    """Server-sent events; the source is closed however the answer ends."""

    def __init__(self, source: AsyncGenerator[dict[str, Any], None]) -> None:
        self._lines, self._first = _lines(source), ""
        self.on_end: Callable[[], None] | None = None
        super().__init__(self._all(), media_type="text/event-stream")

    async def begin(self) -> EventStream:
        """Wait for the first event, so that what is refused is refused with a status.

        Raises:
            Exception: What the source raises before its first event.
        """
        self._first = await anext(self._lines)
        return self

    async def _all(self) -> AsyncGenerator[str, None]:
        yield self._first
        async for line in self._lines:
            yield line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()
            if self.on_end is not None:
                self.on_end()


async def _lines(source: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[str, None]:
    """Write events; an error after the first one is an event too."""
    has_begun = False
    async with aclosing(source) as events:
        try:
            async for event in events:
                yield f"data: {json.dumps(event)}\n\n"
                has_begun = True
        except Exception as error:
            if not has_begun:
                raise
            yield f"data: {json.dumps(as_api_error(error).body())}\n\n"
    yield "data: [DONE]\n\n"
