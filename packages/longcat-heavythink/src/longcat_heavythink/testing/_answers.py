"""What a server of faults sends, as bytes, by the name of the fault."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

Answer = Callable[[dict[str, Any]], "str | dict[str, Any]"]
"""From a request's body to the answer: text, or a whole message."""


@dataclass(slots=True)
class Script:
    """How one answer is sent: pieces of bytes, pauses between them, and what happens then."""

    pieces: list[bytes] = field(default_factory=list[bytes])
    pause_s: float = 0.0
    """Before each piece."""
    hangs: bool = False
    """Whether the connection then stays open and silent."""
    closes: bool = False
    """Whether the connection is closed after it."""
    resets: bool = False
    """Whether it is torn down without good-bye."""


def echo(body: dict[str, Any]) -> str:
    """Answer with the last message's text."""
    content = body["messages"][-1].get("content")
    return content if isinstance(content, str) else json.dumps(content)


def count_of_thinkers(body: dict[str, Any]) -> str:
    """Answer `seen N` where N thinkers are quoted, else `42`."""
    count = echo(body).count("# ----- Thinker #")
    return f"seen {count}" if count else "42"


def respond(status: int, payload: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """Return a whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Type: {kind}",
             f"Content-Length: {len(payload)}", *headers, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode() + payload


def completion(message: dict[str, Any], finish: str | None = "stop", **fields: Any) -> bytes:
    """Return the JSON of a chat completion."""
    text = message.get("content")
    words = len(text.split()) if isinstance(text, str) else 0
    data = {
        "id": "1",
        "object": "chat.completion",
        "model": "fault",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words},
        **fields,
    }
    return json.dumps(data).encode()


def _error(message: str, kind: str = "server_error", **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, **fields}}).encode()


def _good(message: dict[str, Any], body: dict[str, Any], end: bool = True) -> list[bytes]:
    """Return a good answer in pieces, whole or streamed as the request asks."""
    if not body.get("stream"):
        return [respond(200, completion(message))]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    pieces = [head]
    for name in ("reasoning_content", "content"):
        text = message.get(name) or ""
        for word in text.split(" ") if text else ():
            pieces.append(_event({name: word + " "}))
    for place, call in enumerate(message.get("tool_calls") or ()):
        pieces.append(_event({"tool_calls": [{"index": place, **call}]}))
    if not end:
        return pieces[: max(2, len(pieces) - 1)]
    usage = {"prompt_tokens": 10, "completion_tokens": len(pieces) - 1}
    pieces.append(_event({}, "stop"))
    pieces.append(_chunk(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()))
    return [*pieces, _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    data = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return _chunk(f"data: {json.dumps(data)}\n\n".encode())


def _chunk(payload: bytes) -> bytes:
    return f"{len(payload):x}\r\n".encode() + payload + b"\r\n"


_HTML = b"<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>"
_PARTS = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
_WHOLE: dict[str, Callable[[], bytes]] = {
    "500": lambda: respond(500, _error("it broke")),
    "502": lambda: respond(502, _HTML, kind="text/html"),
    "503": lambda: respond(503, _error("overloaded")),
    "400": lambda: respond(400, _error("bad field", "invalid_request_error")),
    "401": lambda: respond(401, _error("wrong key", "invalid_request_error")),
    "404": lambda: respond(404, _error("no such model", "not_found")),
    "context": lambda: respond(
        400, _error("maximum context length is 8 tokens", "invalid", code="context_length_exceeded")
    ),
    "quota": lambda: respond(429, _error("pay first", "insufficient_quota")),
    "redirect": lambda: respond(302, b"", "Location: http://127.0.0.1:9/"),
    "no_content": lambda: b"HTTP/1.1 204 No Content\r\n\r\n",
    "html": lambda: respond(200, _HTML, kind="text/html"),
    "nothing": lambda: respond(200, b""),
    "array": lambda: respond(200, b"[1, 2]"),
    "error_200": lambda: respond(200, _error("model crashed")),
    "no_choices": lambda: respond(200, b'{"id": "1", "choices": []}'),
    "no_message": lambda: respond(200, b'{"choices": [{"index": 0, "message": null}]}'),
    "number": lambda: respond(200, completion({"role": "assistant", "content": 42})),
    "blank": lambda: respond(200, completion({"role": "assistant", "content": " \n"})),
    "null": lambda: respond(200, completion({"role": "assistant", "content": None}, "length")),
    "length": lambda: respond(200, completion({"role": "assistant", "content": "4"}, "length")),
    "filter": lambda: respond(
        200, completion({"role": "assistant", "content": ""}, "content_filter")
    ),
    "unclosed": lambda: respond(200, completion({"role": "assistant", "content": "<think>4"})),
    "parts": lambda: respond(200, completion({"role": "assistant", "content": _PARTS})),
    "bom": lambda: respond(200, b"\xef\xbb\xbf" + completion({"content": "42"})),
    "latin": lambda: respond(200, completion({"content": "42 xx"}).replace(b"xx", b"\xff\xfe")),
    "no_usage": lambda: respond(200, completion({"content": "42"}, usage=None)),
    "no_finish": lambda: respond(200, completion({"content": "42"}, None)),
    "gzip": lambda: respond(
        200, gzip.compress(completion({"content": "42"})), "Content-Encoding: gzip"
    ),
    "bad_gzip": lambda: respond(200, b"not gzip at all", "Content-Encoding: gzip"),
    "garbage": lambda: b"\x16\x03\x01 this is not HTTP\r\n\r\n",
    "deep": lambda: respond(200, b"[" * 100_000),
}
FAULTS = (
    "429",
    "429_date",
    "cut",
    "cut_stream",
    "error_stream",
    "dead",
    "slow",
    "trickle",
    "reset",
    "hang_after_head",
    "close_after",
    *_WHOLE,
)
"""Modes that `FaultServer` knows, besides `ok` and `delay:SECONDS`."""


def script_of(mode: str, message: dict[str, Any], body: dict[str, Any]) -> Script:
    """Return how to answer in a mode, written `name` or `name:seconds`."""
    name, _, number = mode.partition(":")
    seconds = float(number) if number else None
    if name == "ok":
        return Script(_good(message, body))
    if name == "delay":
        return Script(_good(message, body), pause_s=seconds or 0.05)
    if name in _WHOLE:
        return Script([_WHOLE[name]()], closes=name in ("garbage", "no_content"))
    if name in ("429", "429_date"):
        when = datetime.now(UTC) + timedelta(seconds=seconds or 1)
        asked = format_datetime(when, usegmt=True) if name == "429_date" else number
        headers = [f"Retry-After: {asked}"] if asked else []
        return Script([respond(429, _error("slow down", "rate_limit"), *headers)])
    if name == "cut":
        whole = respond(200, completion(message))
        return Script([whole[: len(whole) - 10]], closes=True)
    if name == "cut_stream":
        return Script(_good(message, {**body, "stream": True}, end=False), closes=True)
    if name == "error_stream":
        start = _good(message, {**body, "stream": True}, end=False)
        line = _chunk(b"data: " + _error("worker died") + b"\n\n") + b"0\r\n\r\n"
        return Script([*start, line])
    if name == "close_after":  # says keep-alive and does not keep it
        return Script(_good(message, body), closes=True)
    return _silent(name, message, body, seconds)


def _silent(
    name: str, message: dict[str, Any], body: dict[str, Any], seconds: float | None
) -> Script:
    if name == "dead":
        return Script(hangs=True)
    if name == "reset":
        return Script(resets=True)
    if name == "hang_after_head":
        return Script([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], hangs=True)
    whole = b"".join(_good(message, body))
    if name == "slow":  # whole, but late
        return Script([whole], pause_s=seconds or 0.3)
    if name == "trickle":  # a few bytes at a time
        return Script(list(_bytes(whole)), pause_s=seconds or 0.001)
    raise ValueError(f"mode must be ok, delay or one of {', '.join(FAULTS)}, got {name!r}")


def _bytes(whole: bytes) -> Iterator[bytes]:
    for place in range(0, len(whole), 8):
        yield whole[place : place + 8]
