"""Chat completions as bytes: what is sent, and what comes back whole or in pieces.

Nothing here waits or knows a socket. Every malformed answer becomes a failure that quotes the
address and the beginning of the body.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from longcat_heavythink._confidence import token_confidence
from longcat_heavythink._models import judged
from longcat_heavythink._replies import (
    Call,
    Delta,
    Failure,
    FailureKind,
    Reply,
    Timing,
    ToolCall,
    Usage,
    plain_text,
)
from longcat_heavythink._thoughts import LiveThoughts

from ._config import EndpointConfig

_SHOWN = 300
_KEPT = 4000
_OF_A_STREAM = (b"data:", b":", b"event:")
_TOO_LONG = re.compile(
    r"context.?(?:length|size|window|limit)|too long|too many (?:\w+ )?tokens"
    r"|(?:input|prompt) (?:length|tokens?).{0,40}(?:exceed|max|limit|over)"
    r"|max\w* (?:input|prompt)|(?:上下文|输入|提示).{0,20}(?:超|过长)"
)
"""How servers say that a prompt does not fit."""


def request_body(call: Call, model: str, config: EndpointConfig) -> bytes:
    """Return the JSON of a request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(call.messages),
        "temperature": call.temperature,
    }
    limit = call.max_tokens if call.max_tokens is not None else config.max_tokens
    if limit is not None:
        body["max_tokens"] = limit
    if call.tools:
        body["tools"] = list(call.tools)
    if call.top_logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = call.top_logprobs
    if call.on_delta is not None:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    body.update(config.extra)
    body.update(call.extra)
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate: as an escape it is valid JSON
        return json.dumps(body).encode()


def read_error(status: int, raw: bytes, url: str, retry_after_s: float | None) -> Failure:
    """Return the failure that a status other than 200 means."""
    text = raw.decode("utf-8", "replace")
    words = _error_words(text) or " ".join(text[:_SHOWN].split()) or "(nothing)"
    kind, permanent = FailureKind.SERVER, False
    low = text[:_KEPT].lower()
    if status == 429:
        kind = FailureKind.RATE_LIMITED
        permanent = "insufficient_quota" in low or "billing" in low
    elif status in (408, 425):
        kind = FailureKind.TIMEOUT
    elif status < 500:
        is_context = status == 413 or (
            status in (400, 422) and _TOO_LONG.search(low + words.lower())
        )
        kind = FailureKind.CONTEXT if is_context else FailureKind.REFUSED
        permanent = True
    elif status in (501, 505):
        permanent = True
    message = f"{url} answered {status}: {words}"
    return Failure(kind, message, status, text[:_KEPT], retry_after_s, permanent)


def read_reply(raw: bytes, url: str, *, model: str = "", timing: Timing | None = None) -> Reply:
    """Return the reply in the body of a 200.

    Args:
        raw: The body.
        url: Where it came from, for messages.
        model: Its name, where the body does not say.
        timing: Of the call.
    """
    data = _load(raw)
    if data is None and raw.startswith(_OF_A_STREAM):  # it streams though nobody asked
        reader = StreamReader(url)
        reader.feed(raw)
        reply = reader.finish()
        return replace(reply, model=reply.model or model, timing=timing)
    if not isinstance(data, dict):
        return _malformed(url, "no JSON object", raw)
    fields = cast("dict[str, Any]", data)
    if fields.get("error"):
        return Reply(failure=_error_in_200(fields["error"], url, raw))
    choice = _first_choice(fields)
    told = _said(choice, "message") if choice is not None else None
    if choice is None or told is None:
        return _malformed(url, "no choices", raw)
    calls, logprobs = _called(told), choice.get("logprobs")
    return judged(
        told.get("content") or _text(told.get("refusal")) or None,
        thoughts=_thoughts(told),
        tool_calls=_tool_calls(calls) if calls else (),
        finish_reason=_text(choice.get("finish_reason")),
        usage=_usage(fields.get("usage")),
        confidence=_confidence(logprobs) if logprobs else None,
        model=_text(fields.get("model")) or model,
        timing=timing,
    )


def _first_choice(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice that was asked for; a server may send more (`n` among its defaults)."""
    choices = _maps(fields.get("choices"))
    return next((choice for choice in choices if choice.get("index") in (None, 0, "0")), None)


def _said(choice: dict[str, Any], *names: str) -> dict[str, Any] | None:
    """Return the message of a choice; an old completions server has its text alone."""
    messages = [m for name in names if (m := _as_map(choice.get(name))) is not None]
    if not messages and isinstance(choice.get("text"), str):
        return {"content": choice["text"]}
    return next(filter(None, messages), messages[0] if messages else None)


class StreamReader:
    """Puts a reply together from the bytes of a server-sent stream."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._rest = b""
        self._data: list[bytes] = []
        self._head = b""
        self._is_stream = False
        """Whether a line of a stream has come: `_head`, kept until then, is no whole answer."""
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish, self._model = "", ""
        self._usage: Usage | None = None
        self._confidence: list[float] = []
        self._failure: Failure | None = None
        self._live = LiveThoughts()
        self.is_done = False
        """Whether the end of the stream, or an error in it, has come."""

    def feed(self, chunk: bytes) -> list[Delta]:
        """Take bytes as they come; return what they add to the answer."""
        if not self._is_stream:
            self._head += chunk
        deltas: list[Delta] = []
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line.removesuffix(b"\r"), deltas)
        return deltas

    def finish(self) -> Reply:
        """Return the reply; a stream that ended before its end is cut."""
        if self._rest or self._data:
            self._line(self._rest, [])
            self._line(b"", [])
        if self._failure is not None:
            return Reply(failure=self._failure, text="".join(self._text).strip())
        calls = tuple(
            ToolCall(c["name"], c["arguments"] or "{}", c["id"])
            for _, c in sorted(self._calls.items())
        )
        reply = judged(
            "".join(self._text), thoughts="".join(self._thoughts).strip(), tool_calls=calls,
            finish_reason=self._finish, usage=self._usage, model=self._model,
            confidence=tuple(self._confidence) or None,
        )  # fmt: skip
        if self.is_done or self._finish:
            return reply
        if not self._is_stream and self._head.strip():
            return read_reply(self._head, self._url)  # a server that does not stream
        cut = Failure(FailureKind.CUT, f"{self._url} ended its stream before the answer did")
        return Reply(
            text=reply.text, thoughts=reply.thoughts, tool_calls=calls, usage=self._usage,
            failure=cut, model=self._model,
        )  # fmt: skip

    def _line(self, line: bytes, deltas: list[Delta]) -> None:
        if line.startswith((*_OF_A_STREAM, b"error:")):
            self._is_stream = True
        if line.startswith(b"data:"):
            self._data.append(line[5:].strip())
        elif not line.strip() and self._data:
            payload, self._data = b"\n".join(self._data), []
            self._event(payload, deltas)
        elif line.startswith(b"{") and self._is_stream:  # an error that forgot its `data:`
            fields = _as_map(_load(line)) or {}
            if fields.get("error"):
                self._take(fields, deltas, line)
        elif line.startswith(b"error:"):
            self._fail(line[6:].decode("utf-8", "replace").strip())

    def _event(self, payload: bytes, deltas: list[Delta]) -> None:
        if self.is_done:
            return
        for part in _documents(payload):
            if part == b"[DONE]":
                self.is_done = True
                return
            data = _as_map(_load(part))
            if data is None:
                self._fail(part.decode("utf-8", "replace"))
                return
            self._take(data, deltas, part)

    def _take(self, data: dict[str, Any], deltas: list[Delta], raw: bytes) -> None:
        if data.get("error"):
            self._failure = _error_in_200(data["error"], self._url, raw)
            self.is_done = True
            return
        self._usage = _usage(data.get("usage")) or self._usage
        self._model = _text(data.get("model")) or self._model
        choice = _first_choice(data)
        if choice is None:
            return
        self._finish = _text(choice.get("finish_reason")) or self._finish
        self._confidence += _confidence(choice.get("logprobs")) or ()
        delta = _said(choice, "delta", "message") or {}
        text, thoughts = plain_text(delta.get("content")), _thoughts(delta)
        for place, piece in enumerate(_maps(_called(delta))):
            self._add_call(piece, place)
        if text or thoughts:
            self._text.append(text)
            self._thoughts.append(thoughts)
            shown, hidden = (text, "") if thoughts else self._live.feed(text)
            if shown or hidden or thoughts:
                deltas.append(Delta(text=shown, thoughts=thoughts + hidden))

    def _add_call(self, piece: dict[str, Any], place: int) -> None:
        index = piece.get("index")
        call = self._calls.setdefault(
            index if isinstance(index, int) else place, {"id": "", "name": "", "arguments": ""}
        )
        function = _as_map(piece.get("function")) or {}
        call["id"] = call["id"] or _text(piece.get("id"))
        call["name"] += _text(function.get("name"))
        call["arguments"] += _arguments(function.get("arguments"))

    def _fail(self, words: str) -> None:
        shown = " ".join(words[:_SHOWN].split())
        self._failure = Failure(FailureKind.SERVER, f"{self._url} broke off with: {shown}")
        self.is_done = True


def _documents(payload: bytes) -> list[bytes]:
    """Return the JSON documents of one event; some servers forget the blank line between two."""
    are_many = b"}\n{" in payload or payload.endswith(b"}\n[DONE]")
    return payload.split(b"\n") if are_many else [payload]


def _load(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except UnicodeDecodeError:  # letters of another encoding are no reason to lose an answer
        text = raw.decode("utf-8-sig", "replace")
    except (ValueError, RecursionError):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _malformed(url: str, what: str, raw: bytes) -> Reply:
    shown = " ".join(raw[:_SHOWN].decode("utf-8", "replace").split()) or "(nothing)"
    message = f"{url} answered 200 with {what}: {shown}"
    body = raw[:_KEPT].decode("utf-8", "replace")
    return Reply(failure=Failure(FailureKind.MALFORMED, message, 200, body))


def _error_in_200(error: Any, url: str, raw: bytes) -> Failure:
    words = _error_words(json.dumps({"error": error})) or str(error)
    fields = _as_map(error) or {}
    code = fields.get("code", fields.get("status"))
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    body = raw[:_KEPT].decode("utf-8", "replace")
    if status is not None:
        known = read_error(status, body.encode(), url, None)
        message = f"{url} answered 200 with error {status}: {words}"
        return Failure(known.kind, message, status, body, None, known.permanent)
    return Failure(FailureKind.SERVER, f"{url} answered 200 with an error: {words}", 200, body)


def _error_words(text: str) -> str:
    data = _as_map(_load(text.encode("utf-8", "replace")))
    error: Any = data.get("error") if data else None
    fields = _as_map(error)
    if fields is not None:
        error = fields.get("message")
    elif data is not None and error is None:
        error = data.get("message") or data.get("detail")
    return error[:_SHOWN] if isinstance(error, str) else ""


def _as_map(value: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _maps(value: Any) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_THINKING = ("thinking", "reasoning", "reasoning_text")
"""Parts of a message that hold thoughts."""


def _thoughts(message: Mapping[str, Any]) -> str:
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            return message[name]
    parts = [part for part in _maps(message.get("content")) if part.get("type") in _THINKING]
    inside = [part.get("thinking") or part.get("reasoning") or part.get("text") for part in parts]
    return "".join(map(plain_text, inside))


def _arguments(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _called(message: dict[str, Any]) -> Any:
    """The calls of a message or a piece of one, in the older form too."""
    older = message.get("function_call")
    return message.get("tool_calls") or ([{"function": older}] if older else None)


def _tool_calls(value: Any) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    for item in _maps(value):
        function = _as_map(item.get("function")) or {}
        arguments = _arguments(function.get("arguments")) or "{}"
        if _text(function.get("name")):
            calls.append(ToolCall(_text(function["name"]), arguments, _text(item.get("id"))))
    return tuple(calls)


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    prompt, completion = fields.get("prompt_tokens"), fields.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    return Usage(max(0, prompt), max(0, completion))


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _confidence(logprobs: Any) -> tuple[float, ...] | None:
    fields = _as_map(logprobs)
    tokens = _maps(fields.get("content")) if fields else []
    rows: list[list[float]] = []
    for token in tokens:
        alternatives = _maps(token.get("top_logprobs")) or [token]
        known = [float(a["logprob"]) for a in alternatives if _is_known(a.get("logprob"))]
        if known:
            rows.append(known)
    return token_confidence(rows) or None
