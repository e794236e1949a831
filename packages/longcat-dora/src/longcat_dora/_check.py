"""Replay a log and find every breach of the contract.

The checker knows nothing of the scheduler: it keeps its own books from the events alone.

- C1  A trajectory is produced and committed under the version it was started on, which was
      published before.
- C2  A trajectory that was started ends exactly once: committed, ended or evicted. Only the log of
      a run that is still going may hold open ones.
- C3  Nothing is trained on that is older than the bound, or of a version not yet published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]


@dataclass(slots=True)
class Report:
    """What a log holds."""

    breaches: list[str] = field(default_factory=list[str])
    num_events: int = 0
    num_started: int = 0
    num_committed: int = 0
    num_ended: int = 0
    """Ended or evicted, with a reason."""
    num_open: int = 0
    """Neither, at the end of the log."""
    staleness: Counter[int] = field(default_factory=Counter[int])
    """Staleness to the number of committed trajectories."""
    reasons: Counter[str] = field(default_factory=Counter[str])

    @property
    def is_clean(self) -> bool:
        """Whether no breach was found."""
        return not self.breaches

    def summary(self) -> str:
        """One line for people."""
        ledger = (
            f"{self.num_started} started = {self.num_committed} committed + {self.num_ended} ended"
            f" + {self.num_open} open"
        )
        worst = max(self.staleness, default=0)
        verdict = "C1 C2 C3 hold" if self.is_clean else f"{len(self.breaches)} breaches"
        return f"{verdict}: {self.num_events} events, {ledger}, worst staleness {worst}"


class _Books:
    def __init__(self) -> None:
        self.report = Report()
        self.bound: int | None = None
        self.version: int | None = None
        self.open: dict[str, int] = {}
        self.produced: set[str] = set()
        self.closed: dict[str, str] = {}
        self.commits: list[tuple[int, list[tuple[str, int]]]] = []

    def read(self, event: Event) -> None:
        self.report.num_events += 1
        handler = getattr(self, f"_{event['kind']}", None)
        if handler is not None:
            handler(event)

    def breach(self, rule: str, text: str) -> None:
        self.report.breaches.append(f"{rule}, event {self.report.num_events}: {text}")

    def _opened(self, event: Event) -> None:
        self.bound = event["hard_staleness"]

    def _published(self, event: Event) -> None:
        self.version = event["version"]

    def _started(self, event: Event) -> None:
        name, version = event["trajectory"], event["version"]
        if name in self.open or name in self.closed:
            self.breach("C2", f"{name} is started twice")
        if self.version is None or version > self.version:
            self.breach("C1", f"{name} is started on version {version}, newest is {self.version}")
        self.report.num_started += 1
        self.open[name] = version

    def _produced(self, event: Event) -> None:
        name = event["trajectory"]
        if name not in self.open:
            self.breach("C2", f"{name} is produced, but {self.closed.get(name, 'never started')}")
            return
        if event["version"] != self.open[name] or len(set(event.get("versions", []))) > 1:
            seen = event.get("versions", [event["version"]])
            self.breach("C1", f"{name} was started on {self.open[name]}, sampled on {seen}")
        self.produced.add(name)

    def _ended(self, event: Event) -> None:
        self._close(event["trajectory"], event["reason"])

    def _evicted(self, event: Event) -> None:
        for name in event["trajectories"]:
            self._close(name, event["reason"])

    def _close(self, name: str, reason: str) -> None:
        if name not in self.open:
            self.breach("C2", f"{name} ends ({reason}), but {self.closed.get(name, 'never began')}")
            return
        if not reason:
            self.breach("C2", f"{name} ends without a reason")
        del self.open[name]
        self.closed[name] = f"ended ({reason})"
        self.report.num_ended += 1
        self.report.reasons[reason] += 1

    def _committed(self, event: Event) -> None:
        now = event["version"]
        if now != self.version:
            self.breach("C3", f"a step at version {now}, newest published is {self.version}")
        batch: list[tuple[str, int]] = []
        for name in event["trajectories"]:
            if name not in self.open:
                self.breach("C2", f"{name} is trained on, but {self.closed.get(name, 'unknown')}")
                continue
            if name not in self.produced:
                self.breach("C2", f"{name} is trained on before it was finished")
            version = self.open.pop(name)
            staleness = now - version
            if staleness < 0 or (self.bound is not None and staleness > self.bound):
                self.breach("C3", f"{name} has staleness {staleness}, the bound is {self.bound}")
            self.closed[name] = "committed"
            batch.append((name, version))
            self.report.num_committed += 1
            self.report.staleness[staleness] += 1
        self.commits.append((now, batch))

    def _restored(self, event: Event) -> None:
        """Steps at `version` and later are undone; their trajectories are open again."""
        self.version = event["version"]
        while self.commits and self.commits[-1][0] >= event["version"]:
            now, batch = self.commits.pop()
            for name, version in batch:
                del self.closed[name]
                self.open[name] = version
                self.report.num_committed -= 1
                self.report.staleness[now - version] -= 1


def check(events: Iterable[Event]) -> Report:
    """Replay events and report breaches.

    Example:
        >>> check([{"kind": "published", "version": 0},
        ...        {"kind": "started", "trajectory": "t0", "group": "g", "version": 1}]).breaches
        ['C1, event 2: t0 is started on version 1, newest is 0']
    """
    books = _Books()
    closed = False
    for event in events:
        books.read(event)
        closed = event["kind"] == "closed"
    books.report.num_open = len(books.open)
    books.report.staleness += Counter()  # drop zeros
    if closed and books.open:
        names = ", ".join(list(books.open)[:5])
        books.breach("C2", f"the log is closed, but {len(books.open)} are open: {names}")
    return books.report
