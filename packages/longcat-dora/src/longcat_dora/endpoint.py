"""Train an agent that was written against OpenAI's chat API, unchanged (`pip install 'longcat-dora[endpoint]'`).

    agent ──POST {base_url}/chat/completions──> endpoint ──> Session ──> Engine
                                                   what was sampled is recorded here, as tokens

Each rollout has an address of its own, so that whatever speaks there is that trajectory's. What sampling is
like is the worker's affair: `temperature` and the like in a request are not heeded. Messages that do not
continue what was said before (a sub-agent, a context that was compacted) are another segment.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import secrets
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any, cast

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "longcat_dora.endpoint needs: pip install 'longcat-dora[endpoint]'"
    ) from error

from ._types import Outcome, Policy, Rollout

Agent = Callable[[Any, str], Awaitable[Outcome] | Outcome]
"""Takes a task's payload and the base URL to speak to; returns the reward, or reward and information."""


def black_box(agent: Agent, *, host: str = "127.0.0.1") -> Rollout:
    """Turn an agent into a rollout function; one that is no coroutine runs in a thread.

    Example:
        async def agent(task, base_url):
            client = openai.AsyncOpenAI(base_url=base_url, api_key="none")
            answer = await client.chat.completions.create(model="policy", messages=task["messages"])
            return float(answer.choices[0].message.content == task["answer"])

        Worker(engine=engine, renderer=renderer, rollout=black_box(agent))
    """
    endpoint = _Endpoint(host)

    async def rollout(payload: Any, policy: Policy) -> Outcome:
        async with endpoint.session(policy) as base_url:
            if inspect.iscoroutinefunction(agent):
                return await agent(payload, base_url)
            outcome = await asyncio.to_thread(agent, payload, base_url)
            return await outcome if inspect.isawaitable(outcome) else outcome

    return rollout


_OVER = "the rollout of this address is over"


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the controller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Endpoint:
    """One server in this process, for all sessions."""

    def __init__(self, host: str) -> None:
        self.host, self.port = host, 0
        self._policies: dict[str, Policy] = {}
        self._names: dict[str, dict[str, str]] = {}
        """By session: tool call to the function that it calls."""
        self._asking: dict[str, set[asyncio.Task[dict[str, Any] | None]]] = {}
        """By session: requests that are being answered."""
        self._server: tuple[_Server, asyncio.Task[None]] | None = None
        self._ids = itertools.count()

    @contextlib.asynccontextmanager
    async def session(self, policy: Policy) -> AsyncGenerator[str]:
        """Give a policy an address for as long as the context lasts."""
        await self._start()
        key = secrets.token_hex(8)
        self._policies[key], self._names[key], self._asking[key] = policy, {}, set()
        try:
            yield f"http://{self.host}:{self.port}/{key}/v1"
        finally:
            del self._policies[key], self._names[key]
            asking = self._asking.pop(key)  # the rollout is over: nobody waits for these any more
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            if not self._policies:
                await self._stop()

    async def _start(self) -> None:
        if self._server is None:
            listener = socket.create_server((self.host, 0))
            self.port = listener.getsockname()[1]
            app = Starlette(
                routes=[
                    Route("/{key}/v1/chat/completions", self._answer, methods=["POST"]),
                    Route("/{key}/v1/models", self._models),
                ]
            )
            config = uvicorn.Config(app, log_level="warning", lifespan="off")
            server = _Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            self._server = server, serving
        # The listener queues whoever comes before the server is up.

    async def _stop(self) -> None:
        """End the server when nobody is left to speak to it."""
        if self._server is not None:
            (server, serving), self._server = self._server, None
            server.should_exit = True
            await serving

    async def _models(self, _: Request) -> Response:
        card = {"id": "policy", "object": "model", "created": 0, "owned_by": "longcat-dora"}
        return JSONResponse({"object": "list", "data": [card]})

    async def _answer(self, request: Request) -> Response:
        key = request.path_params["key"]
        policy = self._policies.get(key)
        if policy is None:
            return _error(_OVER, 404)
        try:
            body = json.loads(await request.body())
            messages = [self._incoming(key, message) for message in body["messages"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _error(f"messages must be as in OpenAI's API: {error!r}", 400)
        if body.get("n") not in (None, 1):
            return _error(f"n must be 1, got {body['n']}", 400)
        task = asyncio.ensure_future(policy.chat(messages, tools=body.get("tools") or []))
        self._asking[key].add(task)
        done, _ = await asyncio.wait([task])
        if key not in self._policies or task.cancelled():
            return _error(_OVER, 404)
        self._asking[key].difference_update(done)
        if (failure := task.exception()) is not None:
            return _error(f"the engine failed: {failure!r}", 500)
        message = task.result()
        if message is None:
            return _error("no room is left in the context", 400, code="context_length_exceeded")
        answer = self._outgoing(key, message)
        reason = "tool_calls" if answer.get("tool_calls") else "stop"
        head = {
            "id": f"chatcmpl-{next(self._ids)}", "created": int(time.time()),
            "model": body.get("model") or "policy",
        }  # fmt: skip
        if body.get("stream"):
            return StreamingResponse(_events(head, answer, reason), media_type="text/event-stream")
        choice = {"index": 0, "message": answer, "finish_reason": reason}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice]})

    def _incoming(self, key: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """As renderers like messages: text in one piece, tool results with the function's name."""
        found = {k: v for k, v in message.items() if v is not None}
        content = found.get("content")
        if isinstance(content, list):
            parts = cast("list[dict[str, str]]", content)
            found["content"] = "".join(part["text"] for part in parts)
        if message["role"] == "tool" and "name" not in found:
            found["name"] = self._names[key].get(message.get("tool_call_id", ""), "")
        return found

    def _outgoing(self, key: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """As clients like messages: calls with an id, and arguments as text."""
        calls: list[dict[str, Any]] = []
        for call in message.get("tool_calls") or ():
            function = call.get("function", call)
            arguments: Any = function.get("arguments") or {}
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            name = call.get("id") or f"call-{next(self._ids)}"
            self._names[key][name] = function["name"]
            described = {"name": function["name"], "arguments": arguments}
            calls.append({"id": name, "type": "function", "function": described})
        answer = {**message, "role": "assistant", "content": message.get("content")}
        answer.pop("tool_calls", None)
        return {**answer, "tool_calls": calls} if calls else answer


async def _events(head: dict[str, Any], answer: dict[str, Any], reason: str) -> AsyncIterator[str]:
    """The whole answer as a stream of one piece."""
    delta = {**answer}
    if "tool_calls" in answer:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(answer["tool_calls"])]
    for piece, finish in ((delta, None), ({}, reason)):
        choice = {"index": 0, "delta": piece, "finish_reason": finish}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    yield "data: [DONE]\n\n"


def _error(text: str, status: int, *, code: str | None = None) -> Response:
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)
