"""A model behind an OpenAI-compatible endpoint, by the standard library alone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from longcat_envs._protocol import Message
from longcat_envs._thread import in_thread

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
MAX_BYTES = 10_000_000


class ModelError(RuntimeError):
    """The model did not answer, or not with a message."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model answers.

    Example:
        >>> endpoint = Endpoint("http://localhost:8000/v1", model="served")
    """

    url: str
    """Base URL, with or without `/chat/completions`."""
    model: str = "default"
    key: str = field(default="", repr=False)
    timeout_s: float = 120.0
    num_tries: int = 4
    wait_s: float = 1.0
    """Pause before the second try; doubled each time."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the request, such as `temperature`."""
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        if self.num_tries < 1 or self.timeout_s <= 0 or self.wait_s < 0:
            raise ValueError("num_tries must be at least 1, timeout_s above 0, wait_s at least 0")

    def ask(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Message:
        """Return the model's message.

        Raises:
            ModelError: It did not come after `num_tries` tries.
        """
        body: dict[str, Any] = {"model": self.model, "messages": messages, **self.settings}
        if tools:
            body["tools"] = tools
        wait, reason = self.wait_s, ""
        for attempt in range(self.num_tries):
            if attempt:
                self.sleep(wait)
                wait *= 2
            try:
                return _message(self._post(body))
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                if error.code not in RETRIED:
                    detail = error.read(300).decode("utf-8", "replace")
                    raise ModelError(f"{self.url}: {reason}: {detail}") from None
            except (OSError, ValueError) as error:  # no connection, no time, no JSON
                reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{self.url}: no answer in {self.num_tries} tries: {reason}")

    def _post(self, body: dict[str, Any]) -> Any:
        url = self.url.rstrip("/")
        url = url if url.endswith("/chat/completions") else f"{url}/chat/completions"
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = json.dumps(body, ensure_ascii=True).encode()
        request = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            return json.loads(answer.read(MAX_BYTES))


def _message(answer: Any) -> Message:
    """Read the first choice of an answer.

    Raises:
        ValueError: It has none.
    """
    choices: Any = (
        cast("dict[str, Any]", answer).get("choices") if isinstance(answer, dict) else None
    )
    first: Any = cast("list[Any]", choices)[0] if isinstance(choices, list) and choices else None
    message: Any = cast("dict[str, Any]", first).get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        got = repr(cast("object", answer))[:200]
        raise ValueError(f"an answer has choices with a message, got {got}")
    given = cast("dict[str, Any]", message)
    found: Message = {"role": "assistant", "content": given.get("content") or ""}
    calls = given.get("tool_calls")
    if isinstance(calls, list) and calls:
        found["tool_calls"] = calls
    if isinstance(given.get("reasoning_content"), str):
        found["reasoning_content"] = given["reasoning_content"]
    return found


class ModelPolicy:
    """A policy for `run_episode` that asks a model."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def chat(self, messages: list[Message], *, tools: list[dict[str, Any]]) -> Message | None:
        """Return the next assistant message."""
        return await in_thread(lambda: self.endpoint.ask(messages, tools))
