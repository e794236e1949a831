"""An OpenAI-compatible server over the engine: chat completions with tools, completions, models, health.

    pip install 'longcat-moe[serve]'
    app = create_app(engine, ChatFormat(tokenizer), model="mine")     # any ASGI server runs it
    serve(app, host="127.0.0.1", port=8000)                           # uvicorn does

- Each choice is one conversation of the engine, closed when it is answered or when the client leaves.
- What came before is shared block by block, so that the next turn of a chat computes what is new alone.
- Where more wait than the engine allows, the answer is 429; what is asked wrongly is 400 with one reason.

Not there: images, JSON modes, forced tool calls, several choices in one stream.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:  # pragma: no cover
    raise ImportError("longcat_moe.server needs: pip install 'longcat-moe[serve]'") from error

from ._chat import ChatFormat, parse_turn
from ._completions import Completions
from ._http import (
    AskedWrong,
    ClientLeftError,
    error_answer,
    number,
    read_body,
    sampling_options,
    unless_left,
    usage,
)
from .engine import Engine, EngineFullError, Generation

_MAX_CHOICES = 16
_THINK_END, _CALL = "</longcat_think>", "<longcat_tool_call>"


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked chat-completions request."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    options: dict[str, Any]
    """Of `Engine.generate`."""
    seed: int | None
    num_choices: int
    is_stream: bool
    with_usage: bool
    with_log_probs: bool
    enable_thinking: bool


def create_app(
    engine: Engine,
    chat: ChatFormat,
    *,
    model: str,
    version: int = 0,
    max_tokens: int = 1024,
    timeout_s: float | None = None,
    takes_weights: bool = False,
) -> Starlette:
    """Return an ASGI application.

    Args:
        engine: `threaded`, so that answers flow while it computes, and with `decode`, for stop strings.
        chat: Renders and parses.
        model: The name clients see and may ask for.
        version: Of the engine's weights.
        max_tokens: Of an answer, where the client says nothing.
        timeout_s: After which an answer is cut, finish reason `length`.
        takes_weights: Whether clients may replace the weights: `PUT /v1/weights/{version}` with
            safetensors, which all requests that come after it are answered by. For training, among friends:
            nobody is asked who they are.
    """
    answers = _Answers(engine, chat, model, version, max_tokens, timeout_s)
    routes = [
        Route("/health", answers.health),
        Route("/v1/models", answers.models),
        Route("/v1/models/{name:path}", answers.model_card),
        Route("/v1/chat/completions", answers.chat_completions, methods=["POST"]),
        Route("/v1/completions", Completions(answers).completions, methods=["POST"]),
    ]
    if takes_weights:
        routes.append(Route("/v1/weights/{version:int}", answers.weights, methods=["PUT"]))
    return Starlette(routes=routes)


def serve(app: Starlette, *, host: str, port: int) -> None:
    """Run until interrupted; open answers are given a moment to end."""
    import uvicorn  # noqa: PLC0415 - only who serves needs it

    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)


class _Answers:
    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        model: str,
        version: int,
        max_tokens: int,
        timeout_s: float | None,
    ) -> None:
        self.engine, self.chat, self.model, self.version = engine, chat, model, version
        self.max_tokens, self.timeout_s = max_tokens, timeout_s
        self.label = self.newest = version
        """What clients call the weights; the newest version that the engine was given."""
        self.created, self.ids = int(time.time()), itertools.count()

    async def health(self, _: Request) -> Response:
        stats = self.engine.stats
        return JSONResponse(
            {"status": "ok", "open": self.engine.num_open, "sampled_tokens": stats.num_sampled}
        )

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model_card(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.model:
            return error_answer(f"the model must be {self.model!r}, got {name!r}", 404, "model")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.model, "object": "model", "created": self.created, "owned_by": "longcat",
            "max_model_len": self.engine.max_length,
        }  # fmt: skip

    async def weights(self, request: Request) -> Response:
        label, data = int(request.path_params["version"]), await request.body()
        self.newest += 1  # the engine's own number: a client may begin to count anew
        version = self.newest
        try:
            await asyncio.to_thread(self.engine.load_weights, version, data)
        except (RuntimeError, ValueError, KeyError) as error:
            return error_answer(f"the weights do not fit: {error}", 400, "weights")
        self.label, self.version, before = label, version, self.version
        self.engine.retire(before)
        return JSONResponse({"version": label})

    async def chat_completions(self, request: Request) -> Response:
        try:
            ask = self._check(await read_body(request))
            prompt = self._render(ask)
            if ask.is_stream:
                conversation = await self._open(ask, 0)
                events = self._events(ask, prompt, conversation)
                return StreamingResponse(events, media_type="text/event-stream")
            answer = asyncio.ensure_future(self._whole(ask, prompt))
            return JSONResponse(await unless_left(request, answer))
        except AskedWrong as error:
            return error_answer(str(error), 400, error.param)
        except EngineFullError as error:
            return error_answer(str(error), 429, None)
        except ClientLeftError:
            return Response(status_code=499)

    # -- asking ------------------------------------------------------------------------------

    def _check(self, body: Mapping[str, Any]) -> Ask:
        if body.get("model") not in (None, self.model):
            raise AskedWrong(f"model must be {self.model!r}, got {body['model']!r}", "model")
        for key, allowed in (
            ("tool_choice", (None, "auto", "none")),
            ("response_format", (None, {"type": "text"})),
        ):
            if body.get(key) not in allowed:
                raise AskedWrong(f"{key} must be one of {allowed}, got {body[key]!r}", key)
        options = sampling_options(
            body, keys=("max_completion_tokens", "max_tokens"), max_tokens=self.max_tokens,
            timeout_s=self.timeout_s,
        )  # fmt: skip
        num = number(body, ("n",), 1, least=1, most=_MAX_CHOICES, whole=True)
        is_stream = bool(body.get("stream"))
        if is_stream and num > 1:
            raise AskedWrong(f"n must be 1 in a stream, got {num}", "n")
        tools = [] if body.get("tool_choice") == "none" else _tools(body)
        template = body.get("chat_template_kwargs") or {}
        return Ask(
            messages=_messages(body),
            tools=tools,
            options=options,
            seed=number(body, ("seed",), None, whole=True),
            num_choices=num,
            is_stream=is_stream,
            with_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            with_log_probs=bool(body.get("logprobs")),
            enable_thinking=bool(template.get("enable_thinking", True)),
        )

    def _render(self, ask: Ask) -> list[int]:
        try:
            prompt = self.chat.start(
                ask.messages, ask.tools, enable_thinking=ask.enable_thinking, keep_thoughts=False
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AskedWrong(f"messages and tools must be as in OpenAI's API: {error!r}") from error
        if len(prompt) + 2 > self.engine.max_length:
            raise AskedWrong(
                f"the prompt must leave room in {self.engine.max_length} tokens, it has "
                f"{len(prompt)}",
                "messages",
            )
        return prompt

    async def _open(self, ask: Ask, choice: int) -> int:
        seed = None if ask.seed is None else ask.seed + choice
        return await self.engine.open(self.version, seed=seed)

    # -- answering ---------------------------------------------------------------------------

    async def _whole(self, ask: Ask, prompt: list[int]) -> dict[str, Any]:
        async def one(choice: int) -> Generation:
            conversation = await self._open(ask, choice)
            try:
                return await self.engine.generate(conversation, prompt, **ask.options)
            finally:
                await self.engine.close(conversation)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(choice)) for choice in range(ask.num_choices)]
        results = [task.result() for task in tasks]
        choices: list[dict[str, Any]] = []
        for index, result in enumerate(results):
            message, reason = self._finish(ask, result.token_ids, result.finish_reason)
            choice: dict[str, Any] = {"index": index, "message": message, "finish_reason": reason}
            if ask.with_log_probs:
                choice["logprobs"] = self._log_probs(result.token_ids, result.log_probs)
            choices.append(choice)
        num = sum(len(result.token_ids) for result in results)
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(prompt, num)}

    def _finish(self, ask: Ask, ids: list[int], reason: str) -> tuple[dict[str, Any], str]:
        text = self._text(ids)
        for stop in ask.options["stop"] if reason == "stop" else ():
            text = text.split(stop)[0]
        if not ask.enable_thinking:
            text = f"{_THINK_END}\n{text}"
        elif _THINK_END not in text:  # cut while thinking
            text = f"{text}\n{_THINK_END}\n"
        message = parse_turn(text, ask.tools)
        if "tool_calls" in message:
            for call in message["tool_calls"]:
                call["id"] = f"call-{next(self.ids)}-{time.time_ns():x}"
            message["content"] = message["content"] or None
            return message, "tool_calls"
        return message, "stop" if reason == "stop" else "length"

    async def _events(self, ask: Ask, prompt: list[int], conversation: int) -> AsyncIterator[str]:
        head = self._head("chat.completion.chunk")
        ids: list[int] = []
        shown = _Shown(is_thinking=ask.enable_thinking)
        reason = "length"

        def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
            return f"data: {json.dumps({**head, 'choices': [choice]}, ensure_ascii=False)}\n\n"

        try:
            yield event({"role": "assistant", "content": ""})
            stream = self.engine.stream(conversation, prompt, **ask.options)
            async for token in stream:
                ids.append(token.token_id)
                reason = token.finish_reason or reason
                more = {}
                if ask.with_log_probs:
                    more["logprobs"] = self._log_probs([token.token_id], [token.log_prob])
                delta = shown.advance(self._text(ids), ask.options["stop"])
                if delta or more:
                    yield event(delta, **more)
            message, finish = self._finish(ask, ids, reason)
            for index, call in enumerate(message.get("tool_calls", [])):
                yield event({"tool_calls": [{"index": index, **call}]})
            yield event(shown.rest(message), finish)
            if ask.with_usage:
                total = {**head, "choices": [], "usage": usage(prompt, len(ids))}
                yield f"data: {json.dumps(total)}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            await self.engine.close(conversation)

    def _text(self, ids: list[int]) -> str:
        return self.chat.tokenizer.decode(ids, skip_special_tokens=False)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{next(self.ids)}", "object": kind, "created": int(time.time()),
            "model": self.model,
        }  # fmt: skip

    def _log_probs(self, ids: list[int], log_probs: list[float]) -> dict[str, Any]:
        def entry(token: int, log_prob: float) -> dict[str, Any]:
            text = self._text([token])
            return {
                "token": text, "logprob": log_prob, "bytes": list(text.encode()), "top_logprobs": [],
            }  # fmt: skip

        pairs = zip(ids, log_probs, strict=True)
        return {"content": [entry(*pair) for pair in pairs], "refusal": None}


class _Shown:
    """What of a growing text was sent: first the thought, then the content before any tool call."""

    def __init__(self, *, is_thinking: bool) -> None:
        self.thought, self.content = "", ""
        self.is_thinking = is_thinking

    def advance(self, text: str, stops: list[str]) -> dict[str, Any]:
        """Return what can be sent now; what may be the beginning of a marker waits."""
        thought, closed, content = (
            text.partition(_THINK_END) if self.is_thinking else ("", "x", text)
        )
        delta: dict[str, Any] = {}
        new = (
            _safe(thought, [_THINK_END, "\n" + _THINK_END])
            if not closed
            else thought.removesuffix("\n")
        )
        if len(new) > len(self.thought):
            delta["reasoning_content"], self.thought = new[len(self.thought) :], new
        if closed:
            visible = content.split(_CALL)[0].removeprefix("\n").removesuffix("</longcat_s>")
            for stop in stops:
                visible = visible.split(stop)[0]
            new = _safe(visible, [_CALL, "</longcat_s>", *stops])
            if len(new) > len(self.content):
                delta["content"], self.content = new[len(self.content) :], new
        return delta

    def rest(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the whole message holds beyond what was sent."""
        delta: dict[str, Any] = {}
        for key, sent in (("reasoning_content", self.thought), ("content", self.content)):
            whole = message.get(key) or ""
            if whole.startswith(sent) and len(whole) > len(sent):
                delta[key] = whole[len(sent) :]
        return delta


def _safe(text: str, markers: list[str]) -> str:
    """Leave off an end that may become one of the markers, or half a character."""
    text = text.rstrip("\ufffd")
    longest = max(map(len, markers))
    for begin in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[begin:]) for marker in markers):
            return text[:begin]
    return text


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise AskedWrong("messages must be a list of one message at least", "messages")
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            raise AskedWrong(
                f"a message must be an object with a role, got {message!r}", "messages"
            )
        message = dict(message)
        if message["role"] == "developer":
            message["role"] = "system"
        message["content"] = _plain(message.get("content"))
        for call in message.get("tool_calls") or ():
            names[call.get("id", "")] = call.get("function", {}).get("name", "")
        if message["role"] == "tool":  # clients name the call, not the tool
            message.setdefault("name", names.get(message.get("tool_call_id", ""), ""))
        found.append(message)
    return found


def _plain(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise AskedWrong("content must be text, or parts of type 'text'", "messages")
    return "".join(part.get("text", "") for part in parts)


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = body.get("tools") or []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            raise AskedWrong(f"a tool must be a function with a name, got {tool!r}", "tools")
        function.setdefault("parameters", {"type": "object", "properties": {}})
    return tools
