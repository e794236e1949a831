"""A model behind OpenAI's chat API as a policy that acts in worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx

from longcat_cli.errors import UsageError
from longcat_cli.server_talker import refusal, root_of

TRIES = 6
"""Of a request that the server is too busy for, or that is lost on the way."""
MOST_WAIT_S = 30.0
TIMEOUT = httpx.Timeout(600, connect=10)
TOO_LONG = ("context_length_exceeded", "maximum context length", "context length")
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)


class ServerPolicy:
    """One conversation; it counts the tokens that the server says it sampled.

    Args:
        client: Shared by all conversations.
        url: Of the server, with or without `/v1`.
        model: As the server calls it.
        seed: Of the sampling.
        wait: Sleeps so many seconds.
    """

    def __init__(
        self, client: httpx.AsyncClient, url: str, model: str, *, max_tokens: int,
        temperature: float, seed: int, wait: Any = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._client, self._url, self._wait = client, f"{root_of(url)}/chat/completions", wait
        self._fixed = {
            "model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed,
        }  # fmt: skip
        self.tokens: int | None = 0

    async def chat(
        self, messages: Sequence[dict[str, Any]], *, tools: Sequence[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Answer; `None` where the conversation has no room left.

        Raises:
            UsageError: The server refuses, or cannot be reached again and again.
        """
        body = {**self._fixed, "messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
        response = await self._post(body)
        if response.status_code == 400 and any(words in response.text for words in TOO_LONG):
            return None
        if response.status_code != 200:
            raise UsageError(refusal(self._url, response.status_code, response.text))
        return self._read(response)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            said = response.json()
            message = said["choices"][0]["message"]
            assert isinstance(message, dict)
        except (ValueError, LookupError, TypeError, AssertionError):
            raise UsageError(
                f"{self._url} must answer with choices, got {response.text[:120]!r}"
            ) from None
        spent = (said.get("usage") or {}).get("completion_tokens")
        if isinstance(spent, int) and self.tokens is not None:
            self.tokens += spent
        else:
            self.tokens = None
        kept = ("content", "reasoning_content", "reasoning", "tool_calls")
        told = {name: message[name] for name in kept if message.get(name)}
        return {"role": "assistant", "content": "", **told}

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        wait_s = 0.5
        for last in (number == TRIES - 1 for number in range(TRIES)):
            try:
                response = await self._client.post(self._url, json=body)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if last or isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
                    why = str(error) or type(error).__name__
                    raise UsageError(f"{self._url} must answer, but: {why}") from error
            else:
                if last or response.status_code not in BUSY:
                    return response
                told = response.headers.get("Retry-After", "")
                wait_s = float(told) if told.isdigit() else wait_s
            await self._wait(min(wait_s, MOST_WAIT_S))
            wait_s *= 2
        raise AssertionError("the last try returns or raises")
