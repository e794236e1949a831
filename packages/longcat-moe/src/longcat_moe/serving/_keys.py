"""Who may ask: keys, how much each may ask at once, and who is on this machine."""

from __future__ import annotations

import hmac
import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from starlette.requests import Request

from ._errors import ApiError

Keys = Mapping[str, int | None] | Sequence[str]
"""API keys; with requests that each may have under way, where that is limited."""


class Door:
    """Lets in whoever has a key; everyone where there is none."""

    def __init__(self, keys: Keys) -> None:
        if isinstance(keys, str):
            keys = [keys]
        found = dict(keys) if isinstance(keys, Mapping) else dict.fromkeys(keys)
        if not all(key and key.isascii() for key in found):
            raise ValueError("API keys must be ASCII texts that are not empty")
        self._limits = found
        self._under_way: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._limits

    def enter(self, request: Request) -> Callable[[], None]:
        """Count a request of a key; return what counts it off.

        Raises:
            ApiError: The key is missing or wrong, or has too many requests under way.
        """
        if self.is_open:
            return _nothing
        key = self._key_of(request)
        limit = self._limits[key]
        if limit is not None and self._under_way[key] >= limit:
            raise ApiError(
                f"at most {limit} requests of this key may be under way",
                status=429,
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self._under_way[key] += 1
        return partial(self._leave, key)

    def _leave(self, key: str) -> None:
        self._under_way[key] -= 1

    def _key_of(self, request: Request) -> str:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        told = given.strip().encode()
        # All are compared, in time that tells nothing.
        matches = [key for key in self._limits if hmac.compare_digest(key.encode(), told)]
        if kind.lower() != "bearer" or not matches:
            raise ApiError(
                "a known API key must come as 'Authorization: Bearer KEY'",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return matches[0]


def _nothing() -> None:
    pass


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_local(request: Request) -> None:
    """Check that a request without a key comes from this machine.

    Raises:
        ApiError: It does not.
    """
    if request.client is None or not is_loopback(request.client.host):
        raise ApiError(
            "weights must come with an API key, or from this machine", status=403, code="forbidden"
        )
