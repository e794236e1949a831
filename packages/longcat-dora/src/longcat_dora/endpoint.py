"""Train an agent that was written against OpenAI's chat API, unchanged.

`pip install 'longcat-dora[endpoint]'`.

    agent ──POST {base_url}/chat/completions──> endpoint ──> Session ──> Engine
                                                   what was sampled is recorded here, as tokens

- Each rollout has an address of its own, with a secret in it, so that whatever speaks there is that
  trajectory's.
- What a request asks for is done, or refused with 400: sampling as the worker has it, and
  `max_tokens` below its.
- A client that hangs up cancels its sampling, and what nobody heard is not trained on.
- Messages that do not continue what was said before (a sub-agent, a context that was compacted) are
  another segment; a history that was edited is, too, and is counted and said.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import itertools
import json
import os
import secrets
import socket
import threading
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

from ._rollout.fork import end_copy
from ._rollout.session import Answer, Session
from ._types import Outcome, Policy, Rollout

Agent = Callable[[Any, str], Awaitable[Outcome] | Outcome]
"""Takes a task's payload and the base URL to speak to; returns the reward, or reward and
information."""


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
            outcome = await _in_own_thread(agent, payload, base_url)
            return await outcome if inspect.isawaitable(outcome) else outcome

    return rollout


_OVER = "the rollout of this address is over"
_LOOK_S = 0.05
"""Between two looks whether a client is still there."""


async def _in_own_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread of its own.

    As many run at once as rollouts do, and none holds up the end.
    """
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    home = os.getpid()

    def run() -> None:
        try:
            result = function(*arguments)
            end_copy(home)
            future.set_result(result)
        except BaseException as error:  # the agent's, whatever it is; nobody may wait any more
            end_copy(home)
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_exception(error)

    threading.Thread(target=run, name="agent", daemon=True).start()
    return await asyncio.wrap_future(future)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the controller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Endpoint:
    """One server in this process, for all sessions."""

    def __init__(self, host: str) -> None:
        self.host, self.port = host, 0
        self._policies: dict[str, Session] = {}
        self._names: dict[str, dict[str, str]] = {}
        """By session: tool call to the function that it calls."""
        self._asking: dict[str, set[asyncio.Task[Answer | None]]] = {}
        """By session: requests that are being answered."""
        self._server: tuple[_Server, asyncio.Task[None]] | None = None
        self._ids = itertools.count()

    @contextlib.asynccontextmanager
    async def session(self, policy: Policy) -> AsyncGenerator[str]:
        """Give a policy an address for as long as the context lasts."""
        if not isinstance(policy, Session):
            raise TypeError(
                f"black_box needs the policy of a controller, got {type(policy).__name__}"
            )
        await self._start()
        key = secrets.token_urlsafe(16)
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
                    Route("/{key}/v1/{other:path}", self._refuse, methods=["POST"]),
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

    async def _refuse(self, request: Request) -> Response:
        other = request.path_params["other"]
        return _error(f"/chat/completions is what is answered here, not /{other}", 400)

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
        problem = _problem_of(body, policy.temperature)
        if problem is not None:
            return _error(problem, 400)
        tools: list[dict[str, Any]] = body.get("tools") or []
        tools = [] if body.get("tool_choice") == "none" else tools
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        task = asyncio.ensure_future(policy.answer(messages, tools=tools, max_tokens=most))
        self._asking[key].add(task)
        is_heard = await _wait(task, request)
        if key not in self._policies or (task.cancelled() and is_heard):
            return _error(_OVER, 404)
        self._asking[key].discard(task)
        if not is_heard:
            if not task.cancelled() and task.exception() is None and (gone := task.result()):
                policy.take_back(gone)
            return _error("the client has hung up", 499)
        if (failure := task.exception()) is not None:
            return _error(f"the engine failed: {failure!r}", 500)
        found = task.result()
        if found is None:
            return _error("no room is left in the context", 400, code="context_length_exceeded")
        return self._response(key, body, found)

    def _response(self, key: str, body: Mapping[str, Any], found: Answer) -> Response:
        answer = self._outgoing(key, found.message)
        reason = "length" if found.finish_reason == "length" else "stop"
        if answer.get("tool_calls") and reason == "stop":
            reason = "tool_calls"
        head = {
            "id": f"chatcmpl-{next(self._ids)}", "created": int(time.time()),
            "model": body.get("model") or "policy",
        }  # fmt: skip
        usage = {
            "prompt_tokens": found.num_prompt, "completion_tokens": found.num_sampled,
            "total_tokens": found.num_prompt + found.num_sampled,
        }  # fmt: skip
        if body.get("stream"):
            options: Mapping[str, Any] = body.get("stream_options") or {}
            pieces = _events(head, answer, reason, usage if options.get("include_usage") else None)
            return StreamingResponse(pieces, media_type="text/event-stream")
        choice = {"index": 0, "message": answer, "finish_reason": reason, "logprobs": None}
        return JSONResponse(
            {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        )

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


async def _wait(task: asyncio.Task[Any], request: Request) -> bool:
    """Wait for an answer.

    Cancel it when its client hangs up, and return whether it is still there.
    """
    while True:
        await asyncio.wait([task], timeout=_LOOK_S)
        if await request.is_disconnected():
            task.cancel()
            await asyncio.wait([task])
            return False
        if task.done():
            return True


_HARMLESS = {
    "messages", "model", "tools", "stream", "stream_options", "user", "metadata", "store",
    "service_tier", "safety_identifier", "prompt_cache_key", "max_tokens", "max_completion_tokens",
}  # fmt: skip
"""Obeyed, or of no consequence for what is sampled."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,), "top_p": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "logit_bias": ({},), "logprobs": (False,), "top_logprobs": (0,), "stop": ([], ""),
    "response_format": ({"type": "text"},), "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "modalities": (["text"],), "seed": (), "functions": ([],), "function_call": ("auto", "none"),
}  # fmt: skip
"""What would change what is sampled, and the values that do not."""


def _problem_of(body: Mapping[str, Any], temperature: float) -> str | None:
    """Say which parameter of a request cannot be obeyed, if there is one."""
    for name, value in body.items():
        if value is None or name in _HARMLESS:
            continue
        if name == "temperature":
            if value != temperature:
                return f"temperature must be the worker's, {temperature:g}, got {value}"
        elif name not in _ONLY:
            return f"unknown parameter {name!r}"
        elif value not in _ONLY[name]:
            allowed = " or ".join(map(repr, _ONLY[name])) or "absent"
            return f"{name} must be {allowed}, got {value!r:.80}: sampling is the worker's affair"
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            return f"{name} must be a positive number, got {value!r}"
    return None


async def _events(
    head: dict[str, Any], answer: dict[str, Any], reason: str, usage: dict[str, int] | None
) -> AsyncIterator[str]:
    """The whole answer as a stream of one piece."""
    delta = {**answer}
    if "tool_calls" in answer:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(answer["tool_calls"])]
    head = {**head, "object": "chat.completion.chunk"}
    for piece, finish in ((delta, None), ({}, reason)):
        choice = {"index": 0, "delta": piece, "finish_reason": finish}
        yield f"data: {json.dumps({**head, 'choices': [choice]}, ensure_ascii=False)}\n\n"
    if usage is not None:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _error(text: str, status: int, *, code: str | None = None) -> Response:
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)
