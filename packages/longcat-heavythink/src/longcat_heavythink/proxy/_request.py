"""An OpenAI request, checked whole: which model, which schedule, what is passed on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from longcat_heavythink._replies import Call, Failure, FailureKind, Reply
from longcat_heavythink._think import HeavyConfig
from longcat_heavythink.schedule import Schedule, parse_schedule
from longcat_heavythink.transport import Endpoint

_OWN = {
    "model", "messages", "stream", "stream_options", "n", "temperature", "max_tokens",
    "max_completion_tokens", "tools",
}  # fmt: skip


class RequestError(ValueError):
    """A request that cannot be served as it is."""


@dataclass(frozen=True, slots=True)
class HeavyRequest:
    """What a client asks for."""

    messages: list[dict[str, Any]]
    model: str
    """The upstream's; empty is its only one."""
    schedule: Schedule
    temperature: float | None
    max_tokens: int | None
    tools: list[dict[str, Any]]
    is_stream: bool
    wants_usage: bool
    extra: dict[str, Any]
    """Fields passed on as they are."""


def read_request(data: Any, *, default: Schedule, max_calls: int) -> HeavyRequest:
    """Return a request's meaning.

    The model's name may end with `@` and a schedule: `qwen3@vote:16`, `@heavy:4`.

    Raises:
        RequestError: Something is wrong with it; the message says what.
    """
    if not isinstance(data, dict):
        raise RequestError("the body must be a JSON object")
    body = cast("dict[str, Any]", data)
    messages = _messages(body.get("messages"))
    if body.get("n") not in (None, 1):
        raise RequestError(f"n must be 1, got {body['n']!r}: ask for width in the schedule")
    name = body.get("model") or ""
    if not isinstance(name, str):
        raise RequestError("model must be text")
    model, schedule = _split_name(name, default)
    if schedule.num_calls > max_calls:
        raise RequestError(f"{schedule} makes up to {schedule.num_calls} calls, over {max_calls}")
    options: Any = body.get("stream_options")
    wanted = cast("dict[str, Any]", options) if isinstance(options, dict) else {}
    return HeavyRequest(
        messages=messages, model="" if model in ("default", "heavy") else model,
        schedule=schedule, temperature=_number(body, "temperature"),
        max_tokens=_whole(body, "max_completion_tokens") or _whole(body, "max_tokens"),
        tools=_tools(body.get("tools")), is_stream=bool(body.get("stream")),
        wants_usage=bool(wanted.get("include_usage")),
        extra={key: value for key, value in body.items() if key not in _OWN},
    )  # fmt: skip


def _split_name(name: str, default: Schedule) -> tuple[str, Schedule]:
    """Part a name at its last `@`, unless what follows is a version, such as `model@20260101`."""
    model, at, words = name.rpartition("@")
    if not at or not re.match(r"\s*[A-Za-z]+\s*(?:[:>]|$)", words):
        return name, default
    try:
        return model, parse_schedule(words)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list that is not empty")
    messages = cast("list[dict[str, Any]]", value)
    for message in messages:
        is_object = isinstance(cast("Any", message), dict)
        if not is_object or not isinstance(message.get("role"), str):
            raise RequestError("each message must be an object with a role")
    if messages[-1]["role"] not in ("user", "tool"):
        raise RequestError("messages must end with a user message or a tool's")
    return messages


def _tools(value: Any) -> list[dict[str, Any]]:
    tools = cast("list[Any]", value or [])
    if not isinstance(value or [], list) or not all(isinstance(tool, dict) for tool in tools):
        raise RequestError("tools must be a list of objects")
    return tools


def _number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise RequestError(f"{name} must be a number that is not negative, got {value!r:.40}")
    return float(value)


def _whole(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} must be a whole number from 1, got {value!r}")
    return value


def config_of(request: HeavyRequest, base: HeavyConfig) -> HeavyConfig:
    """Return the config of a request: its temperature is the last answer's.

    Thinkers keep the proxy's own, so that a client's 0 does not make them all alike; a schedule of
    one answer takes the client's.
    """
    temperature = base.summary_temperature if request.temperature is None else request.temperature
    is_single = request.schedule.num_calls == 1
    return replace(
        base, schedule=request.schedule, summary_temperature=temperature,
        temperature=temperature if is_single and request.temperature is not None
        else base.temperature,
        max_tokens=request.max_tokens or base.max_tokens, stream="last",
    )  # fmt: skip


class Upstream:
    """The proxy's endpoint as one client's model: with its name for the model and its key."""

    def __init__(self, endpoint: Endpoint, model: str, headers: Mapping[str, str]) -> None:
        self._endpoint, self._model, self._headers = endpoint, model, dict(headers)
        self.max_tokens = endpoint.max_tokens

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model or self._endpoint.name

    async def reply(self, call: Call) -> Reply:
        """Pass a call on."""
        extra = {**call.extra, "model": self._model} if self._model else call.extra
        return await self._endpoint.reply(replace(call, extra=extra, headers=self._headers))


_STATUS = {
    FailureKind.UNREACHABLE: 502, FailureKind.TIMEOUT: 504, FailureKind.CUT: 502,
    FailureKind.MALFORMED: 502, FailureKind.RATE_LIMITED: 429, FailureKind.SERVER: 502,
    FailureKind.CONTEXT: 400, FailureKind.BUDGET: 402,
}  # fmt: skip


def status_of(failure: Failure) -> int:
    """Return the status that tells a client of a failure: the upstream's own, where it has one."""
    if failure.status is not None and failure.status >= 400:
        return failure.status
    return _STATUS.get(failure.kind, 502)
