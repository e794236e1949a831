"""How an endpoint is asked, checked whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ._retry import Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """How an endpoint is asked."""

    url: str
    """Base address, such as `http://localhost:8000/v1`."""
    model: str = ""
    """Empty: the one model that `/models` names."""
    api_key: str = field(default="", repr=False)
    max_tokens: int | None = 1024
    timeout_s: float = 120.0
    """Without a byte from the server."""
    deadline_s: float = 600.0
    """Of one call, with all its tries and pauses."""
    max_connections: int = 64
    retry: Retry = field(default_factory=Retry)
    hedge_after_s: float | None = None
    """Ask a second time where an answer takes longer; the first good one counts. Not for streams.
    It prefers short answers: use it for stragglers of the network, not of thinking."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of every request, such as `{"top_p": 0.95}`."""
    seed: int = 0
    """Of the jitter."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"url {self.url!r} is no address: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")
        for name in ("timeout_s", "deadline_s", "hedge_after_s"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and math.isfinite(value)
            if value is not None and not (is_number and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        for name in ("max_connections", "max_tokens"):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not is_whole and not (value is None and name == "max_tokens"):
                raise ValueError(f"{name} must be a whole number from 1, got {value!r}")
        for name, value in {"api_key": self.api_key, **self.headers}.items():
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
                raise ValueError(f"{name} must hold no control characters, such as a newline")

    @property
    def base(self) -> str:
        """The address without a final slash or the path of chat completions."""
        return self.url.rstrip("/").removesuffix("/chat/completions")
