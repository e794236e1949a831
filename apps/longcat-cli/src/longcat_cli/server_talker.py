"""A conversation with any OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from .errors import UsageError
from .talkers import Call, Message, Piece

TIMEOUT = httpx.Timeout(120, connect=10)
THOUGHTS = ("reasoning_content", "reasoning")
"""How servers spell a thought in a delta."""


class ServerTalker:
    """Any OpenAI-compatible server; its model is found by asking when it is not named."""

    def __init__(self, url: str, api_key: str, model: str | None) -> None:
        self.url, self.model = root_of(url), model
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        tools: Sequence[Any],
    ) -> AsyncIterator[Piece | Call]:
        """Yield the deltas of a streamed chat completion; see `Talker`."""
        body: dict[str, Any] = {
            "messages": list(messages), "max_tokens": max_tokens, "temperature": temperature,
            "stream": True,
        }  # fmt: skip
        if tools:
            body["tools"] = list(tools)
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT, headers=self.headers) as client:
                body["model"] = self.model = self.model or await first_model(client, self.url)
                async for piece in self._answer(client, body):
                    yield piece
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise UsageError(f"{self.url} must answer, but: {why}") from error

    async def _answer(
        self, client: httpx.AsyncClient, body: dict[str, Any]
    ) -> AsyncIterator[Piece | Call]:
        async with client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                raise UsageError(refusal(self.url, response.status_code, text))
            calls: dict[int, dict[str, str]] = {}
            has_ended = False
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                said = line[5:].strip()
                if said == "[DONE]":
                    has_ended = True
                    break
                event = _event(self.url, said)
                try:
                    pieces, is_end = _read(event, calls)
                except (AttributeError, LookupError, TypeError):
                    told = f"{self.url} must stream chat completions, got {said[:80]!r}"
                    raise UsageError(told) from None
                has_ended = has_ended or is_end
                for piece in pieces:
                    yield piece
            for number in sorted(calls):
                yield Call(**calls[number])
            if not has_ended:
                raise UsageError(f"{self.url} cut the answer off before its end")


def root_of(url: str) -> str:
    """The root of a server's API, however much of it was given.

    >>> root_of("http://127.0.0.1:8000/v1/chat/completions")
    'http://127.0.0.1:8000/v1'

    Raises:
        UsageError: It names no host, or a port that cannot be.
    """
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port or brackets
        is_good = False
    if not is_good:
        raise UsageError(
            f"a server's URL must be http://HOST or http://HOST:PORT, PORT 1 to 65535; got {url!r}"
        )
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if url.endswith("/v1") else f"{url}/v1"


async def first_model(client: httpx.AsyncClient, root: str) -> str:
    """The first model that a server names; servers that name none take any name.

    Raises:
        UsageError: The server wants a key.
    """
    response = await client.get(f"{root}/models")
    if response.status_code in (401, 403):
        raise UsageError(refusal(root, response.status_code, response.text))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        return "default"


def refusal(url: str, status: int, text: str) -> str:
    """What is said of a request that a server refuses."""
    try:
        error = json.loads(text)["error"]
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        pass
    return f"{url} answered {status}: {text.strip()[:300] or 'nothing'}"


def _event(url: str, said: str) -> dict[str, Any]:
    try:
        event = json.loads(said)
    except ValueError:
        raise UsageError(f"{url} must stream JSON, got {said[:80]!r}") from None
    if not isinstance(event, dict):
        raise UsageError(f"{url} must stream JSON objects, got {said[:80]!r}")
    if event.get("error"):
        error = event["error"]
        why = error.get("message", error) if isinstance(error, dict) else error
        raise UsageError(f"{url} failed in the middle of its answer: {str(why)[:300]}")
    return event


def _read(event: dict[str, Any], calls: dict[int, dict[str, str]]) -> tuple[list[Piece], bool]:
    """What an event adds, its parts of calls to `calls`; and whether a choice ends there."""
    pieces, is_end = list[Piece](), False
    for choice in event.get("choices") or ():
        is_end = is_end or bool(choice.get("finish_reason"))
        delta = choice.get("delta") or choice.get("message") or {}
        pieces += _pieces(delta)
        _collect(calls, delta)
    return pieces, is_end


def _pieces(delta: dict[str, Any]) -> list[Piece]:
    thoughts = [str(delta[key]) for key in THOUGHTS if delta.get(key)][:1]
    pieces = [Piece(thought, "thought") for thought in thoughts]
    content = delta.get("content")
    if isinstance(content, list):  # parts, as some servers send
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return [*pieces, Piece(str(content))] if content else pieces


def _collect(calls: dict[int, dict[str, str]], delta: dict[str, Any]) -> None:
    """A call comes in parts that name it by its index; a server that names none sends it whole."""
    for part in delta.get("tool_calls") or ():
        function = part.get("function") or {}
        index = part.get("index")
        call = calls.setdefault(
            len(calls) if index is None else index, {"id": "", "name": "", "arguments": ""}
        )
        call["id"] = call["id"] or str(part.get("id") or f"call_{len(calls) - 1}")
        call["name"] += str(function.get("name") or "")
        arguments = function.get("arguments") or ""
        call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)
