"""How an endpoint is asked, checked whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from longcat_heavythink._checks import check_number, check_whole

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
            if name != "hedge_after_s" or self.hedge_after_s is not None:
                check_number(name, getattr(self, name), zero=False)
        check_whole("max_connections", self.max_connections)
        if self.max_tokens is not None:
            check_whole("max_tokens", self.max_tokens)
        check_whole("seed", self.seed, None)
        kinds = {"model": str, "retry": Retry, "headers": Mapping, "extra": Mapping}
        for name, kind in kinds.items():
            if not isinstance(value := getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {value!r}")
        for name, value in {"api_key": self.api_key, **self.headers}.items():
            if not isinstance(cast("Any", value), str):
                raise ValueError(f"{name} must be text, got {type(value).__name__}")
            if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
                raise ValueError(f"{name} must hold no control characters, such as a newline")

    @property
    def base(self) -> str:
        """The address without a final slash or the path of chat completions."""
        return self.url.rstrip("/").removesuffix("/chat/completions")
