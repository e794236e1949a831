"""`complete` over any OpenAI-compatible server."""

from __future__ import annotations

from typing import Any

import httpx

from ._think import Complete, Message


def openai_complete(
    url: str, *, model: str, api_key: str = "", max_tokens: int = 1024, timeout_s: float = 120.0
) -> Complete:
    """Return a `complete` that asks `url` (such as `http://localhost:8000/v1`).

    Thoughts inside `<think>`-like tags are removed from what comes back.

    Raises, when called:
        RuntimeError: The server does not answer, or answers with an error; the message names it.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def complete(messages: list[Message], temperature: float) -> str:
        body: dict[str, Any] = {
            "model": model,
            "messages": list(messages),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        try:
            async with httpx.AsyncClient(timeout=timeout_s, headers=headers) as client:
                response = await client.post(f"{url.rstrip('/')}/chat/completions", json=body)
        except httpx.HTTPError as error:
            raise RuntimeError(
                f"{url} must answer, but: {error or type(error).__name__}"
            ) from error
        if response.status_code != 200:
            raise RuntimeError(f"{url} answered {response.status_code}: {response.text[:300]}")
        return strip_thoughts(response.json()["choices"][0]["message"]["content"] or "")

    return complete


def strip_thoughts(text: str) -> str:
    """Remove what stands before the last closing thought tag."""
    for tag in ("</longcat_think>", "</think>"):
        text = text.rpartition(tag)[2]
    return text.strip()
