"""How much one client may ask for, and what the proxy has done so far."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_MOST_CLIENTS = 10_000


@dataclass(slots=True)
class _Client:
    in_flight: int = 0
    tokens: float = 0.0
    seen_s: float = 0.0


class Limits:
    """Requests in flight and per minute, for each client. 0 is no limit."""

    def __init__(
        self, *, max_in_flight: int = 0, per_minute: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._max_in_flight, self._per_minute, self._clock = max_in_flight, per_minute, clock
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def enter(self, client: str) -> float | None:
        """Let a request in, or return the seconds after which to ask again.

        Every request that is let in is followed by one `leave`.
        """
        now = self._clock()
        known = self._clients.get(client)
        if known is None:
            known = self._clients[client] = _Client(tokens=float(self._per_minute), seen_s=now)
            self._forget()
        self._clients.move_to_end(client)
        rate = self._per_minute / 60
        known.tokens = min(float(self._per_minute), known.tokens + (now - known.seen_s) * rate)
        known.seen_s = now
        if self._max_in_flight and known.in_flight >= self._max_in_flight:
            return 1.0
        if self._per_minute and known.tokens < 1:
            return (1 - known.tokens) / rate
        known.tokens -= 1
        known.in_flight += 1
        return None

    def leave(self, client: str) -> None:
        """Note that a request has ended."""
        self._clients[client].in_flight -= 1

    def _forget(self) -> None:
        """Drop the clients that were silent longest; those with requests under way stay."""
        for name in list(self._clients):
            if len(self._clients) <= _MOST_CLIENTS:
                return
            if self._clients[name].in_flight == 0:
                del self._clients[name]


@dataclass(slots=True)
class Counters:
    """What `/metrics` shows."""

    requests: dict[str, int] = field(default_factory=dict[str, int])
    """By status."""
    calls: dict[str, int] = field(default_factory=dict[str, int])
    """Of the upstream, by outcome: `good` or the kind of failure."""
    decided: dict[str, int] = field(default_factory=dict[str, int])
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_retries: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    """Of all answered requests together."""

    def count(self, table: dict[str, int], name: str) -> None:
        """Add one to a table's entry."""
        table[name] = table.get(name, 0) + 1

    def text(self, upstream_in_flight: int) -> str:
        """Return the counts in Prometheus' text format."""
        name = "longcat_heavythink"
        lines: list[str] = []

        def family(metric: str, kind: str, help_: str, rows: dict[str, float]) -> None:
            lines.append(f"# HELP {name}_{metric} {help_}")
            lines.append(f"# TYPE {name}_{metric} {kind}")
            lines.extend(f"{name}_{metric}{labels} {value:g}" for labels, value in rows.items())

        def labelled(label: str, table: dict[str, int]) -> dict[str, float]:
            return {f'{{{label}="{key}"}}': value for key, value in sorted(table.items())}

        family("requests_total", "counter", "Requests by status.",
               labelled("status", self.requests))  # fmt: skip
        family("upstream_calls_total", "counter", "Calls by outcome.",
               labelled("outcome", self.calls))  # fmt: skip
        family("answers_total", "counter", "Answers by how they were decided.",
               labelled("decided_by", self.decided))  # fmt: skip
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        family("tokens_total", "counter", "Tokens of all calls.", labelled("kind", tokens))
        family("upstream_retries_total", "counter", "Tries after a first.",
               {"": self.num_retries})  # fmt: skip
        family("requests_in_flight", "gauge", "Requests under way.", {"": self.in_flight})
        family("upstream_in_flight", "gauge", "Calls under way.", {"": upstream_in_flight})
        family("request_seconds_total", "counter", "Time of answered requests.",
               {"": self.seconds})  # fmt: skip
        return "\n".join(lines) + "\n"
