"""An OpenAI-compatible server as a model.

What always holds:

- One client for all calls of an endpoint, opened by the first and closed after the last; `async
  with endpoint` keeps it open between calls.
- Never more connections than `max_connections`, and never more calls in flight.
- A call ends with a reply: every fault of the server is a `Failure`. Cancelled, it closes its
  connection before it returns, so that the server stops too.
"""

from __future__ import annotations

import asyncio
import math
import operator
import time
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Any, Self

import aiohttp

from longcat_heavythink._budget import estimated_usage
from longcat_heavythink._replies import (
    Call,
    Delta,
    Failure,
    FailureKind,
    Message,
    Reply,
)

from ._config import EndpointConfig
from ._gate import Gate
from ._http import failure_of, model_names, proxy_of, read_body, redirected
from ._retry import read_retry_after
from ._watch import Watch, Watched
from ._wire import StreamReader, read_error, read_reply, request_body


class Endpoint:
    """A model behind HTTP. Also callable: `await endpoint(messages, temperature)` returns text."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.max_tokens = config.max_tokens
        self.gate = Gate(config.max_connections)
        self._watch = Watch(config.timeout_s, config.deadline_s)
        self._patience = aiohttp.ClientTimeout(
            total=None, sock_connect=min(config.timeout_s, 30.0), sock_read=config.timeout_s
        )
        self._chat = f"{config.base}/chat/completions"
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._holders = 0
        self._model = config.model
        self._asking: asyncio.Lock | None = None
        self._num_asked: int = 0
        self._not_found: tuple[Mapping[str, str], Failure | None] = ({}, None)
        self._random = Random(config.seed)
        self._last_body: tuple[tuple[Any, ...], Any, bytes] | None = None

    @property
    def name(self) -> str:
        """The model's name, or the address while it is not known."""
        return self._model or self.config.base

    @property
    def journal_name(self) -> str:
        """What a journal calls it: the same before and after its model was found by asking."""
        return self.config.model or self.config.base

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # an earlier loop has ended: so have its connections
            self._loop, self._holders, self._session = loop, 0, None
            self.gate = Gate(self.config.max_connections)
            self._asking = asyncio.Lock()
            self._watch = Watch(self.config.timeout_s, self.config.deadline_s)
        self._holders += 1
        if self._session is None:
            self._session = self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._holders -= 1
        if self._holders == 0 and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def __call__(self, messages: list[Message], temperature: float) -> str:
        """Return the answer's text.

        Raises:
            ValueError: The temperature is not finite or is negative.
            RuntimeError: There is no good answer; the message says why.
        """
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be finite and not negative, got {temperature}")
        reply = await self.reply(Call(messages=messages, temperature=temperature))
        if reply.failure is not None:
            raise RuntimeError(reply.failure.message)
        return reply.text

    async def reply(self, call: Call) -> Reply:
        """Answer a call; every fault is a failure in the reply."""
        async with self:
            after = self.config.hedge_after_s
            if after is None or call.on_delta is not None:
                return await self._until_deadline(call)
            return await self._hedged(call, after)

    async def models(self, headers: Mapping[str, str] | None = None) -> list[str]:
        """Return the names that `/models` lists.

        Raises:
            RuntimeError: The server does not list them.
        """
        async with self:
            failure, names = await self._get_models(headers or {})
        if failure is not None:
            raise RuntimeError(failure.message)
        return names

    def _open(self) -> aiohttp.ClientSession:
        config = self.config
        headers = {"Content-Type": "application/json", **config.headers}
        if config.api_key:
            headers["Authorization"] = f"Bearer {config.api_key}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(config.timeout_s, 30.0))
        connector = aiohttp.TCPConnector(limit=config.max_connections)
        return aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, proxy=proxy_of(config.base),
            cookie_jar=aiohttp.DummyCookieJar(),
        )  # fmt: skip

    async def _hedged(self, call: Call, after_s: float) -> Reply:
        tasks = {asyncio.create_task(self._until_deadline(call))}
        try:
            done, _ = await asyncio.wait(tasks, timeout=after_s)
            if not done:
                tasks.add(asyncio.create_task(self._until_deadline(call)))
            reply = Reply()
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                reply = done.pop().result()
                if reply.good:
                    break
            return reply
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_deadline(self, call: Call) -> Reply:
        log = self._watch.add()
        try:
            reply = await self._tries(call, log)
        except asyncio.CancelledError:
            if not log.is_ours("deadline"):
                raise
            last = f"; the last try: {log.last.message}" if log.last else ""
            message = f"{self._chat} did not answer within {self.config.deadline_s:g} s{last}"
            status = log.last.status if log.last else None
            reply = Reply(failure=Failure(FailureKind.TIMEOUT, message, status))
        finally:
            self._watch.remove(log)
        if reply.timing is None:
            reply = replace(reply, timing=log.timing(), model=reply.model or self._model)
        if reply.usage is None and (reply.text or reply.thoughts):
            usage = estimated_usage(call.messages, reply.text, reply.thoughts)
            reply = replace(reply, usage=usage)
        return reply

    async def _tries(self, call: Call, log: Watched) -> Reply:
        is_named = "model" in self.config.extra or "model" in call.extra
        if not self._model and not is_named:
            failure = await self._find_model(call.headers)
            if failure is not None:
                return Reply(failure=failure)
        body = self._body(call)
        refusals = 0
        while True:
            before = time.monotonic()
            await self.gate.enter()
            log.heard_s = time.monotonic()
            log.waited_s += log.heard_s - before
            log.tries += 1
            try:
                reply = await self._once(call, body, log)
            except asyncio.CancelledError:
                if not log.is_ours("silence"):
                    raise
                words = (
                    f"{self._chat} must answer, but: nothing came for {self.config.timeout_s:g} s"
                )
                reply = Reply(failure=Failure(FailureKind.TIMEOUT, words))
            finally:
                log.heard_s = math.inf
                self.gate.leave()
            failure = reply.failure
            is_refusal = failure is not None and failure.kind is FailureKind.RATE_LIMITED
            refusals += is_refusal
            pause = self._pause(failure, log, refusals)
            if failure is None or not is_refusal:
                self.gate.answered()
            else:  # a pause that this call does not wait for must not hold up the others
                self.gate.refused(failure.retry_after_s if pause is not None else None)
            if failure is None or pause is None:
                return reply
            log.last = failure
            if call.on_retry is not None:
                call.on_retry(failure, pause)
            log.waited_s += pause
            await asyncio.sleep(pause)

    def _pause(self, failure: Failure | None, log: Watched, refusals: int) -> float | None:
        """Return the pause before the next try, `None` where there is none."""
        if failure is None or log.has_shown:  # what was shown cannot be taken back
            return None
        pause = self.config.retry.pause(failure, log.tries - refusals, refusals, self._random)
        left = self.config.deadline_s - (time.monotonic() - log.started_s)
        return pause if pause is not None and pause < left else None

    def _body(self, call: Call) -> bytes:
        """Return a call's request; the K calls of a stage, which share a tuple, share its bytes."""
        if not isinstance(call.messages, tuple):
            return request_body(call, self._model, self.config)
        rest = (call.temperature, call.max_tokens, call.top_logprobs, call.on_delta is None)
        same = (call.messages, call.tools, call.extra)
        last = self._last_body
        if last is not None and all(map(operator.is_, last[0], same)) and last[1] == rest:
            return last[2]
        body = request_body(call, self._model, self.config)
        self._last_body = (same, rest, body)
        return body

    async def _once(self, call: Call, body: bytes, log: Watched) -> Reply:
        assert self._session is not None
        options: dict[str, Any] = {}
        if call.on_delta is not None:  # by the socket, so that what came before is kept
            options["timeout"], log.heard_s = self._patience, math.inf
        if call.headers:
            options["headers"] = call.headers
        try:
            async with self._session.post(
                self._chat, data=body, allow_redirects=False, **options
            ) as response:
                if response.status != 200:
                    raw = await read_body(response, self._chat)
                    asked = read_retry_after(response.headers.get("Retry-After"))
                    failure = read_error(response.status, raw, self._chat, asked)
                    return Reply(failure=redirected(failure, response))
                if call.on_delta is None:
                    raw = await read_body(response, self._chat, log)
                    return read_reply(raw, self._chat, model=self._model, timing=log.timing())
                return await self._stream(response, call, log)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            return Reply(failure=failure_of(error, self._chat, self.config.timeout_s))

    async def _stream(self, response: aiohttp.ClientResponse, call: Call, log: Watched) -> Reply:
        assert call.on_delta is not None
        reader = StreamReader(self._chat)
        began = time.monotonic()
        try:
            async for chunk in response.content.iter_any():
                for delta in reader.feed(chunk):
                    if log.first_token_s is None:
                        log.first_token_s = time.monotonic() - began
                    log.has_shown = True
                    call.on_delta(delta)
                if reader.is_done:
                    break
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            partial = reader.finish()
            failure = failure_of(error, self._chat, self.config.timeout_s)
            if partial.good and not (partial.finish_reason or reader.is_done):
                return replace(partial, failure=failure)
            return partial if partial.finish_reason else replace(partial, failure=failure)
        reply = reader.finish()
        if not log.has_shown and (reply.text or reply.thoughts):  # the server answered whole
            call.on_delta(Delta(reply.text, reply.thoughts))
        return reply

    async def _find_model(self, headers: Mapping[str, str]) -> Failure | None:
        assert self._asking is not None
        came = self._num_asked
        async with self._asking:
            if self._model:
                return None
            told_for, failure = self._not_found
            if self._num_asked != came and told_for == headers:  # asked while this call waited
                return failure
            failure, names = await self._get_models(headers)
            if failure is None and len(names) != 1:
                listed = ", ".join(names[:10]) or "none"
                words = f"{self.config.base} must have one model, or be told which: it has {listed}"
                failure = Failure(FailureKind.REFUSED, words, permanent=True)
            self._num_asked += 1
            self._not_found = (dict(headers), failure)
            if failure is None:
                self._model = names[0]
            return failure

    async def _get_models(self, headers: Mapping[str, str]) -> tuple[Failure | None, list[str]]:
        assert self._session is not None
        url, tries = f"{self.config.base}/models", 0
        while True:
            tries += 1
            try:
                async with self._session.get(
                    url, headers=headers, timeout=self._patience, allow_redirects=False
                ) as response:
                    raw = await read_body(response, url)
                    if response.status == 200:
                        return model_names(raw, url)
                    asked = read_retry_after(response.headers.get("Retry-After"))
                    failure = read_error(response.status, raw, url, asked)
            except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
                failure = failure_of(error, url, self.config.timeout_s)
            pause = self.config.retry.pause(failure, tries, 0, self._random)
            if pause is None or tries >= self.config.retry.max_tries:
                return failure, []
            await asyncio.sleep(pause)


def openai_complete(
    url: str,
    *,
    model: str = "",
    api_key: str = "",
    max_tokens: int | None = 1024,
    timeout_s: float = 120.0,
    **config: Any,
) -> Endpoint:
    """Return a model over `url` (such as `http://localhost:8000/v1`).

    It can be given to `think`, or called: `await complete(messages, temperature)` returns text.

    Args:
        url: Base address.
        model: Its name; empty asks the server.
        api_key: Sent as a bearer token.
        max_tokens: Of each answer, unless a call says otherwise.
        timeout_s: Without a byte from the server.
        config: Other fields of `EndpointConfig`.
    """
    settings = EndpointConfig(
        url=url, model=model, api_key=api_key, max_tokens=max_tokens, timeout_s=timeout_s, **config
    )
    return Endpoint(settings)
