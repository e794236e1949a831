"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from longcat_moe._chat import parse_turn
from longcat_moe.engine import Generation, SamplingParams, Token

from ._body import ENTRY_CHARS, off_loop, read_json, unless_left
from ._errors import ApiError, shown
from ._fields import (
    MAX_CHOICES,
    SAMPLING,
    STREAMING,
    boolean,
    check_known,
    mapping,
    number,
    sampling,
    streaming,
    usage,
)
from ._grammar import GrammarConstraint, Grammars, calls_grammar, check_names, json_grammar
from ._messages import chosen_tools, read_messages, read_tools
from ._served import EventStream, Fan, Served, gather, merge
from ._shown import THINK_END, Shown, TextStream, cut_at

_KNOWN = {
    *SAMPLING, *STREAMING, "messages", "tools", "tool_choice", "parallel_tool_calls",
    "response_format", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs",
    "chat_template_kwargs", "return_token_ids", "reasoning_effort",
}  # fmt: skip
_ONLY: dict[str, tuple[Any, ...]] = {
    "echo": (False,), "prompt_logprobs": (), "skip_special_tokens": (False, True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request."""

    prompt: list[int]
    tools: list[dict[str, Any]]
    """That the model may call."""
    params: SamplingParams
    seed: int | None
    num_choices: int
    is_stream: bool
    with_usage: bool
    with_log_probs: bool
    with_ids: bool
    is_thinking: bool
    is_parallel: bool
    """Whether several tools may be called in one answer."""
    constraint: GrammarConstraint | None

    def params_of_choice(self) -> SamplingParams:
        """Return the parameters, with a constraint of their own."""
        if self.constraint is None:
            return self.params
        return replace(self.params, constraint=self.constraint.copy())

    def seed_of(self, choice: int) -> int | None:
        """Return the seed of a choice."""
        return None if self.seed is None else self.seed + choice


class ChatCompletions:
    """Checks, renders, and answers, whole or as a stream."""

    def __init__(self, served: Served, grammars: Grammars) -> None:
        self.served, self.grammars = served, grammars

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        served = self.served
        body = await read_json(request, served.max_body_bytes)
        served.check_model(body)
        ask = await self._read(body)
        head = self._head("chat.completion.chunk" if ask.is_stream else "chat.completion")
        if ask.is_stream:
            begun = asyncio.ensure_future(EventStream(self._events(ask, head)).begin())
            return await unless_left(request, begun)
        answer = asyncio.ensure_future(self._whole(ask, head))
        return JSONResponse(await unless_left(request, answer))

    # -- asking ------------------------------------------------------------------------------

    async def _read(self, body: Mapping[str, Any]) -> Ask:
        served = self.served
        check_known(body, _KNOWN, _ONLY)
        messages, tools = read_messages(body.get("messages")), read_tools(body.get("tools"))
        forced = chosen_tools(body.get("tool_choice"), tools)
        is_parallel = boolean(body, "parallel_tool_calls", True)
        is_json = mapping(body, "response_format").get("type", "text") != "text"
        is_thinking = _is_thinking(body, is_free=forced is None and not is_json)
        if body.get("tool_choice") == "none":
            tools = []
        constraint = await self._constraint(body, forced, is_thinking, is_parallel)
        is_stream, with_usage = streaming(body)
        with_log_probs = boolean(body, "logprobs")
        num_top = number(body, ("top_logprobs",), 0, least=0, most=64, whole=True)
        if num_top and not with_log_probs:
            raise ApiError("top_logprobs must come with logprobs=true", "top_logprobs")
        names = ("max_completion_tokens", "max_tokens")
        max_tokens = number(body, names, served.max_tokens, least=1, whole=True)
        options = sampling(
            body, served.engine.config, max_tokens=max_tokens, timeout_s=served.timeout_s
        )
        params = SamplingParams(**options, num_top_log_probs=num_top)
        prompt = await served.encode_chat(messages, tools, enable_thinking=is_thinking)
        served.check_length(prompt, "messages")
        return Ask(
            prompt=prompt,
            tools=tools,
            params=params,
            seed=number(body, ("seed",), None, whole=True),
            num_choices=number(body, ("n",), 1, least=1, most=MAX_CHOICES, whole=True),
            is_stream=is_stream,
            with_usage=with_usage,
            with_log_probs=with_log_probs,
            with_ids=boolean(body, "return_token_ids"),
            is_thinking=is_thinking,
            is_parallel=is_parallel,
            constraint=constraint,
        )

    async def _constraint(
        self,
        body: Mapping[str, Any],
        forced: list[Mapping[str, Any]] | None,
        is_thinking: bool,
        is_parallel: bool,
    ) -> GrammarConstraint | None:
        schema = _schema(mapping(body, "response_format"))
        if forced is not None:
            check_names(forced)
            is_one = not is_parallel or body.get("tool_choice") != "required"
            grammar = calls_grammar(forced, is_thinking=is_thinking, is_one=is_one)
            param = "tool_choice"
        elif schema is not None:
            grammar, param = json_grammar(schema, is_thinking=is_thinking), "response_format"
        else:
            return None
        if boolean(body, "ignore_eos"):
            raise ApiError(f"ignore_eos must not come with {param}", "ignore_eos")
        return await asyncio.to_thread(self.grammars.compile, grammar, param)

    # -- answering ---------------------------------------------------------------------------

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.served.new_id("chatcmpl"),
            "object": kind,
            "created": int(time.time()),
            "model": self.served.model,
            "system_fingerprint": f"weights-{self.served.label}",
        }

    async def _whole(self, ask: Ask, head: dict[str, Any]) -> dict[str, Any]:
        fan = Fan(self.served)

        async def one(choice: int) -> Generation:
            async with fan.conversation(ask.seed_of(choice)) as c:
                return await fan.engine.generate(c, ask.prompt, params=ask.params_of_choice())

        results = await gather([partial(one, choice) for choice in range(ask.num_choices)])
        size = ENTRY_CHARS * (1 + ask.params.num_top_log_probs)
        choices = [
            await off_loop(size * len(result.token_ids), self._choice, ask, index, result)
            for index, result in enumerate(results)
        ]
        num = sum(len(result.token_ids) for result in results)
        more = {"prompt_token_ids": ask.prompt} if ask.with_ids else {}
        return {**head, "choices": choices, "usage": usage(len(ask.prompt), num), **more}

    def _choice(self, ask: Ask, index: int, result: Generation) -> dict[str, Any]:
        ids, log_probs = result.token_ids, None
        message, reason = self._finish(ask, ids, result.finish_reason)
        if ask.with_log_probs:
            log_probs = self._log_probs(ids, result.log_probs, result.top_log_probs)
        choice = {
            "index": index, "message": message, "logprobs": log_probs, "finish_reason": reason,
        }  # fmt: skip
        return choice | ({"token_ids": ids} if ask.with_ids else {})

    def _finish(self, ask: Ask, ids: Sequence[int], reason: str) -> tuple[dict[str, Any], str]:
        text = self.served.decode(ids)
        if reason == "stop":
            text = cut_at(text, ask.params.stop)
        if not ask.is_thinking:
            text = f"{THINK_END}\n{text}"
        elif THINK_END not in text:  # cut while thinking
            text = f"{text}\n{THINK_END}\n"
        names = [tool["function"]["name"] for tool in ask.tools]
        message = parse_turn(text, ask.tools, callable_names=names)
        message.setdefault("refusal", None)
        calls = message.get("tool_calls")
        if calls:
            if not ask.is_parallel:
                del calls[1:]
            for call in calls:
                call["id"] = self.served.new_id("call")
            message["content"] = message["content"] or None
            return message, "tool_calls"
        return message, "stop" if reason == "stop" else "length"

    async def _events(self, ask: Ask, head: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        fan, num = Fan(self.served), 0
        sources = [self._choice_events(ask, fan, choice) for choice in range(ask.num_choices)]
        null = {"usage": None} if ask.with_usage else {}
        async with aclosing(merge(sources)) as events:
            async for choice, num_new in events:
                num += num_new
                yield {**head, "choices": [choice], **null}
        if ask.with_usage:
            yield {**head, "choices": [], "usage": usage(len(ask.prompt), num)}

    async def _choice_events(
        self, ask: Ask, fan: Fan, index: int
    ) -> AsyncGenerator[tuple[dict[str, Any], int], None]:
        """Yield the choices of chunks, and how many tokens each tells of."""
        ids: list[int] = []
        text = TextStream(self.served.decode)
        shown_text = Shown(is_thinking=ask.is_thinking, has_calls=bool(ask.tools))
        reason = "length"

        def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

        async with fan.conversation(ask.seed_of(index)) as c:
            yield choice({"role": "assistant", "content": ""}), 0
            stream = fan.engine.stream(c, ask.prompt, params=ask.params_of_choice())
            async with aclosing(stream) as tokens:
                async for token in tokens:
                    ids.append(token.token_id)
                    reason = token.finish_reason or reason
                    event = choice(shown_text.advance(text.add(token.token_id), ask.params.stop))
                    if ask.with_log_probs:
                        event["logprobs"] = self._log_probs_of(token)
                    if ask.with_ids:
                        event["token_ids"] = [token.token_id]
                    if event["delta"] or ask.with_log_probs or ask.with_ids:
                        yield event, 0
        message, finish = self._finish(ask, ids, reason)
        for place, call in enumerate(message.get("tool_calls", [])):
            yield choice({"tool_calls": [{"index": place, **call}]}), 0
        yield choice(shown_text.rest(message), finish), len(ids)

    def _log_probs_of(self, token: Token) -> dict[str, Any]:
        return self._log_probs([token.token_id], [token.log_prob], [token.top_log_probs])

    def _log_probs(
        self,
        ids: Sequence[int],
        log_probs: Sequence[float],
        tops: Sequence[Sequence[tuple[int, float]]],
    ) -> dict[str, Any]:
        def entry(token: int, log_prob: float) -> dict[str, Any]:
            text = self.served.decode([token])
            return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}

        content = [
            {**entry(token, log_prob), "top_logprobs": [entry(*pair) for pair in top]}
            for token, log_prob, top in zip(ids, log_probs, tops or [[]] * len(ids), strict=True)
        ]
        return {"content": content, "refusal": None}


def _is_thinking(body: Mapping[str, Any], *, is_free: bool) -> bool:
    """Return whether to think first: as asked, else unless the form of the answer is given."""
    template = mapping(body, "chat_template_kwargs")
    unknown = set(template) - {"enable_thinking"}
    if unknown:
        raise ApiError(
            f"chat_template_kwargs may hold enable_thinking, got {shown(template)}",
            "chat_template_kwargs",
        )
    effort = body.get("reasoning_effort")
    if effort not in (None, "none"):
        raise ApiError(f"reasoning_effort must be 'none', got {shown(effort)}", "reasoning_effort")
    return boolean(template, "enable_thinking", is_free and effort is None)


def _schema(form: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of a `response_format`; None for free text."""
    kind = form.get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise ApiError(
            f"response_format must be of type text, json_object or json_schema, got {shown(kind)}",
            "response_format",
        )
    given = mapping(form, "json_schema")
    _check_form(form, {"type", "json_schema"} if kind == "json_schema" else {"type"})
    _check_form(given, {"name", "description", "schema", "strict"})
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    schema = given.get("schema")
    if not isinstance(schema, dict):
        raise ApiError(
            f"response_format must hold json_schema.schema, an object, got {shown(schema)}",
            "response_format",
        )
    return schema


def _check_form(form: Mapping[str, Any], known: set[str]) -> None:
    """Refuse what would be ignored."""
    unknown = [name for name, value in form.items() if name not in known and value is not None]
    if unknown:
        raise ApiError(
            f"this response_format may hold {', '.join(sorted(known))}, got {shown(unknown[0])}",
            "response_format",
            code="unknown_parameter",
        )
