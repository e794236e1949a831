"""The proxy's routes.

    client --> limits --> request --> think (events) --> chunks --> client
                                        |
                                     endpoint (one, bounded) --> upstream

- A client that hangs up ends its run: its calls are cancelled before the handler returns.
- Before the first byte an upstream's error keeps its status and body; after it, the stream carries
  the error and ends without `[DONE]`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from longcat_heavythink._events import CallFinished, CallRetried, Event, RunFinished
from longcat_heavythink._journal import Journal
from longcat_heavythink._replies import Failure, FailureKind
from longcat_heavythink._scorers import Judge
from longcat_heavythink._think import HeavyAnswer, HeavyConfig, think
from longcat_heavythink.schedule import HeavyThinkError, parse_schedule
from longcat_heavythink.transport import Endpoint, EndpointConfig

from ._limits import Counters, Limits
from ._request import HeavyRequest, RequestError, Upstream, config_of, read_request, status_of
from ._stream import BrokenAnswer, Chunks, usage_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """How the proxy serves."""

    upstream: EndpointConfig
    """Without a key, each client's own is passed on."""
    schedule: str = "heavy:8"
    """For models whose name says none."""
    heavy: HeavyConfig = field(default_factory=HeavyConfig)
    """Temperatures, words, limits; its schedule is not used."""
    offered: tuple[str, ...] = ("plain", "heavy:4", "heavy:8", "vote:16")
    """Schedules that `/v1/models` lists for each model of the upstream."""
    max_calls: int = 128
    """A schedule that may make more calls is refused."""
    max_in_flight: int = 8
    """Requests of one client at a time; 0 is no limit."""
    per_minute: int = 0
    """Requests of one client in a minute; 0 is no limit."""
    journal: Journal | None = None
    """Opened with `can_resume=False`, or the same question would get the same answer again."""

    def __post_init__(self) -> None:
        for text in (self.schedule, *self.offered):
            parse_schedule(text)
        most = parse_schedule(self.schedule).num_calls
        if most > self.max_calls:
            raise ValueError(f"max_calls must cover the {most} calls of {self.schedule}, "
                             f"got {self.max_calls}")  # fmt: skip
        for name in ("max_in_flight", "per_minute"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class _Proxy:
    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.endpoint = Endpoint(config.upstream)
        self.schedule = parse_schedule(config.schedule)
        self.limits = Limits(max_in_flight=config.max_in_flight, per_minute=config.per_minute)
        self.counters = Counters()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        client = _client(request)
        wait_s = self.limits.enter(client)
        if wait_s is not None:
            headers = {"Retry-After": str(max(1, round(wait_s + 0.5)))}
            return _error(429, "too many requests of this client", headers=headers)
        self.counters.in_flight += 1
        began = time.monotonic()
        try:
            data = await _body(request)
            asked = read_request(
                data, default=self.schedule, max_calls=self.config.max_calls
            )  # fmt: skip
            name = str(data.get("model") or self.endpoint.name)
            if asked.is_stream:
                return await self._stream(request, asked, name)
            return await self._whole(request, asked, name)
        except RequestError as error:
            return _error(400, str(error), kind="invalid_request_error")
        except HeavyThinkError as error:
            return _failed(error)
        finally:
            self.counters.in_flight -= 1
            self.counters.seconds += time.monotonic() - began
            self.limits.leave(client)

    async def _think(
        self, request: web.Request, asked: HeavyRequest, on_event: Callable[[Event], None]
    ) -> HeavyAnswer:
        model = Upstream(self.endpoint, asked.model, self._key(request))

        def heard(event: Event) -> None:
            self._count(event)
            on_event(event)

        answer = await think(
            asked.messages, model, config=config_of(asked, self.config.heavy), on_event=heard,
            tools=asked.tools,
            scorer=Judge(model), journal=self.config.journal, extra=asked.extra,
        )  # fmt: skip
        self.counters.prompt_tokens += answer.usage.prompt_tokens
        self.counters.completion_tokens += answer.usage.completion_tokens
        return answer

    def _count(self, event: Event) -> None:
        counters = self.counters
        if isinstance(event, CallFinished):
            failure = event.reply.failure
            counters.count(counters.calls, str(failure.kind) if failure else "good")
        elif isinstance(event, CallRetried):
            counters.num_retries += 1
        elif isinstance(event, RunFinished):
            counters.count(counters.decided, event.decided_by)

    def _key(self, request: web.Request) -> dict[str, str]:
        if self.config.upstream.api_key or "Authorization" not in request.headers:
            return {}
        return {"Authorization": request.headers["Authorization"]}

    async def _whole(
        self, request: web.Request, asked: HeavyRequest, name: str
    ) -> web.StreamResponse:
        answer = await self._think(request, asked, lambda event: None)
        choice = {"index": 0, "message": answer.reply.to_message(),
                  "finish_reason": _finish(answer)}  # fmt: skip
        return web.json_response(
            {
                "id": f"heavy-{uuid.uuid4().hex[:16]}", "object": "chat.completion",
                "created": int(time.time()), "model": name, "choices": [choice],
                "usage": usage_fields(answer.usage), "longcat": _told(asked, answer),
            }
        )  # fmt: skip

    async def _stream(
        self, request: web.Request, asked: HeavyRequest, name: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache",
                     "X-Accel-Buffering": "no"}
        )  # fmt: skip

        async def write(data: bytes) -> None:
            if not response.prepared:
                await response.prepare(request)
            await response.write(data)

        chunks = Chunks(f"heavy-{uuid.uuid4().hex[:16]}", name, write)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        run = asyncio.create_task(self._think(request, asked, events.put_nowait))
        run.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                await chunks.take(event)
            answer = await run
            usage = answer.usage if asked.wants_usage else None
            message = answer.reply.to_message()
            await chunks.finish(message, _finish(answer), usage, _told(asked, answer))
        except (HeavyThinkError, BrokenAnswer) as error:
            if not response.prepared:
                raise
            await chunks.error(str(error))
        except ConnectionResetError:
            pass  # the client has gone; the run ends below
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await run
        return response

    async def models(self, request: web.Request) -> web.Response:
        try:
            names = await self.endpoint.models(self._key(request))
        except RuntimeError as error:
            return _error(502, str(error))
        listed = [*names, *(f"{name}@{text}" for name in names for text in self.config.offered)]
        data = [{"id": name, "object": "model", "owned_by": "longcat"} for name in listed]
        return web.json_response({"object": "list", "data": data})

    async def metrics(self, request: web.Request) -> web.Response:
        text = self.counters.text(self.endpoint.gate.in_flight)
        return web.Response(text=text, content_type="text/plain")

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


def make_app(config: ProxyConfig) -> web.Application:
    """Return the proxy as an aiohttp application."""
    proxy = _Proxy(config)

    @web.middleware
    async def counted(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = _error(error.status, f"{request.path}: {error.reason}")
        if request.path.endswith("/chat/completions"):
            proxy.counters.count(proxy.counters.requests, str(response.status))
        return response

    app = web.Application(client_max_size=64 * 2**20, middlewares=[counted])
    for prefix in ("", "/v1"):
        app.router.add_post(f"{prefix}/chat/completions", proxy.chat)
        app.router.add_get(f"{prefix}/models", proxy.models)
    app.router.add_get("/metrics", proxy.metrics)
    app.router.add_get("/health", proxy.health)

    async def held(_: web.Application) -> AsyncIterator[None]:
        async with proxy.endpoint:  # connections stay open between requests
            yield

    app.cleanup_ctx.append(held)
    return app


async def serve(
    config: ProxyConfig, *, host: str = "127.0.0.1", port: int = 8080,
    on_ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve until cancelled; requests under way are then cancelled too.

    Args:
        config: Of the proxy.
        host: Address to bind.
        port: Port to bind; 0 takes a free one.
        on_ready: Called with the address once connections are accepted.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, got {port}")
    runner = web.AppRunner(
        make_app(config), handler_cancellation=True, shutdown_timeout=0.5, access_log=None
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        if on_ready is not None:
            bound = runner.addresses[0][1]
            shown = f"[{host}]" if ":" in host else host
            on_ready(f"http://{shown}:{bound}/v1")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _client(request: web.Request) -> str:
    """Return what tells clients apart: their key, else their address."""
    key = request.headers.get("Authorization")
    if key:
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return request.remote or ""


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object that a client sent, as UTF-8 whatever its headers say."""
    try:
        data: Any = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError("the body must be a JSON object")
    return cast("dict[str, Any]", data)


def _finish(answer: HeavyAnswer) -> str:
    return "tool_calls" if answer.reply.tool_calls else "stop"


def _told(asked: HeavyRequest, answer: HeavyAnswer) -> dict[str, Any]:
    told: dict[str, Any] = {
        "schedule": str(asked.schedule), "decided_by": answer.decided_by,
        "num_calls": len(answer.records), "num_failed": answer.num_failed,
    }  # fmt: skip
    if answer.fell_back:
        told["fell_back"] = answer.fell_back
    return told


def _error(
    status: int, message: str, *, kind: str = "heavythink_error",
    headers: Mapping[str, str] | None = None,
) -> web.Response:  # fmt: skip
    data = {"error": {"message": message, "type": kind, "code": status}}
    return web.json_response(data, status=status, headers=headers)


def _failed(error: HeavyThinkError) -> web.Response:
    """Return the upstream's own error, as it came."""
    failures = [record.reply.failure for record in error.records if record.reply.failure]
    chosen = next((f for f in failures if f.status and f.status >= 400), None)
    failure = chosen or next(iter(failures), Failure(FailureKind.SERVER, str(error)))
    status = status_of(failure)
    headers: dict[str, str] = {}
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(failure.retry_after_s)))
    if chosen is not None and chosen.body.lstrip().startswith("{"):
        return web.Response(
            text=chosen.body, status=status, content_type="application/json", headers=headers
        )
    return _error(status, str(error), headers=headers)
