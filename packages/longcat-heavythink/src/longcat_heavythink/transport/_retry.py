"""Which failures are tried again, how often, and after which pause."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

from longcat_heavythink._checks import check_number, check_whole
from longcat_heavythink._replies import Failure, FailureKind

_AGAIN = {
    FailureKind.UNREACHABLE, FailureKind.TIMEOUT, FailureKind.CUT, FailureKind.RATE_LIMITED,
    FailureKind.SERVER, FailureKind.MALFORMED,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Tries of one call. A refusal for load (429) does not use up a try; the deadline ends it."""

    max_tries: int = 5
    base_s: float = 0.25
    """The pause before try n + 1 is drawn from 0 to `base_s * 2**n`, capped (full jitter)."""
    cap_s: float = 20.0
    max_retry_after_s: float = 120.0
    """A server that asks for a longer pause is not waited for."""

    def __post_init__(self) -> None:
        check_whole("max_tries", self.max_tries)
        for name in ("base_s", "cap_s", "max_retry_after_s"):
            check_number(name, getattr(self, name))

    def pause(self, failure: Failure, tries: int, refusals: int, random: Random) -> float | None:
        """Return seconds until the next try, or `None` where there is none.

        Args:
            failure: Of the last try.
            tries: So far, refusals for load not counted.
            refusals: For load, so far.
            random: For the jitter.
        """
        if failure.kind not in _AGAIN or failure.permanent:
            return None
        is_refusal = failure.kind is FailureKind.RATE_LIMITED
        if not is_refusal and tries >= self.max_tries:
            return None
        longest = min(self.cap_s, self.base_s * 2 ** min(tries + refusals - 1, 30))
        asked = failure.retry_after_s
        if asked is None:
            return random.uniform(0, longest)
        if asked > self.max_retry_after_s:
            return None
        return asked + random.uniform(0, min(longest, self.base_s))


def read_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, `None` where it says nothing.

    >>> read_retry_after("2")
    2.0
    >>> read_retry_after("soon") is None
    True
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
