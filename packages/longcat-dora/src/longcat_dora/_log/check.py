"""Replay a log and find every breach of the contract.

The checker knows nothing of the scheduler: it keeps its own books from the events alone.
What a run allowed at the bound (`at_bound`) is in its log, and is no breach: with `continue` and `mask` a
trajectory may go on under a newer version, which must be told as it happens; with `mask` what is too old
may be in a batch, if it is told that nothing is learned from it.

- C1  A trajectory is produced and committed under the version it was started on, which was
      published before, and was not undone since.
- C2  A trajectory that was started ends exactly once: committed, ended or evicted. Only the log of
      a run that is still going may hold open ones.
- C3  Nothing is trained on that is older than the bound, or of a version not yet published; what is
      used again was trained on once before.
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
    num_moved: int = 0
    """Went on under a newer version."""
    num_masked: int = 0
    """Committed, and not learned from."""
    num_reused: int = 0
    """Trained on once more."""
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


@dataclass(slots=True)
class _Step:
    """One step, so that it can be undone."""

    version: int
    batch: list[tuple[str, int]]
    masked: set[str]
    reused: list[str]


class _Books:
    def __init__(self) -> None:
        self.report = Report()
        self.bound: int | None = None
        self.may_move = self.may_mask = False
        self.version: int | None = None
        self.open: dict[str, int] = {}
        self.before: dict[str, list[int]] = {}
        """Versions that a trajectory was moved away from."""
        self.produced: set[str] = set()
        self.closed: dict[str, str] = {}
        self.committed: dict[str, int] = {}
        self.reused: set[str] = set()
        self.undone: set[str] = set()
        """Sampled on a version that a restore took back: another one has its number now."""
        self.steps: list[_Step] = []
        self.handlers = {
            "opened": self._opened, "published": self._published, "started": self._started,
            "moved": self._moved, "produced": self._produced, "ended": self._ended,
            "evicted": self._evicted, "committed": self._committed, "restored": self._restored,
        }  # fmt: skip

    def read(self, event: Event) -> None:
        self.report.num_events += 1
        handler = self.handlers.get(event["kind"])
        if handler is not None:
            handler(event)

    def breach(self, rule: str, text: str) -> None:
        self.report.breaches.append(f"{rule}, event {self.report.num_events}: {text}")

    def _opened(self, event: Event) -> None:
        self.bound = event["hard_staleness"]
        at_bound = event.get("at_bound", "wait")
        self.may_move, self.may_mask = at_bound in ("continue", "mask"), at_bound == "mask"

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

    def _moved(self, event: Event) -> None:
        name, version = event["trajectory"], event["version"]
        if not self.may_move:
            self.breach("C1", f"{name} is moved to {version}, which at_bound does not allow")
        if name not in self.open or name in self.produced:
            self.breach(
                "C1", f"{name} is moved, but {self.closed.get(name, 'is not being sampled')}"
            )
            return
        if self.version is None or version > self.version:
            self.breach("C1", f"{name} is moved to version {version}, newest is {self.version}")
        self.before.setdefault(name, []).append(self.open[name])
        self.open[name] = version
        self.report.num_moved += 1

    def _produced(self, event: Event) -> None:
        name, version = event["trajectory"], event["version"]
        if name not in self.open or name in self.produced:
            self.breach(
                "C2", f"{name} is produced, but {self.closed.get(name, 'not being sampled')}"
            )
            return
        known = [*self.before.pop(name, ()), self.open[name]]
        seen = event.get("versions", (version,))
        if version not in known or not set(seen) <= set(known):
            self.breach("C1", f"{name} was started on {known[0]}, sampled on {list(seen)}")
        self.open[name] = version  # it may have been finished before it heard that it was moved
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
        masked = set(event.get("masked", ()))
        if masked and not self.may_mask:
            self.breach("C2", "trajectories are masked, which at_bound does not allow")
        step = _Step(now, [], masked, [])
        for name in event["trajectories"]:
            if name not in self.open:
                self.breach("C2", f"{name} is trained on, but {self.closed.get(name, 'unknown')}")
                continue
            if name not in self.produced:
                self.breach("C2", f"{name} is trained on before it was finished")
            version = self.open.pop(name)
            if name in self.undone:
                self.breach("C1", f"{name} is trained on, but its version {version} was undone")
            self._book(name, now, version, is_masked=name in masked)
            self.closed[name] = "committed"
            self.committed[name] = version
            step.batch.append((name, version))
        for name in event.get("reused", ()):
            self._reuse(name, now)
            step.reused.append(name)
        self.steps.append(step)

    def _book(self, name: str, now: int, version: int, *, is_masked: bool) -> None:
        staleness = now - version
        self.report.num_committed += 1
        if is_masked:
            self.report.num_masked += 1
            return
        self._judge(name, staleness)
        self.report.staleness[staleness] += 1

    def _judge(self, name: str, staleness: int) -> None:
        if staleness < 0 or (self.bound is not None and staleness > self.bound):
            self.breach("C3", f"{name} has staleness {staleness}, the bound is {self.bound}")

    def _reuse(self, name: str, now: int) -> None:
        if name not in self.committed or name in self.reused:
            state = "was used again before" if name in self.reused else "was never trained on"
            self.breach("C2", f"{name} is used again, but {state}")
            return
        self.reused.add(name)
        self.report.num_reused += 1
        self._judge(name, now - self.committed[name])

    def _restored(self, event: Event) -> None:
        """Steps at `version` and later are undone; their trajectories are open again."""
        self.version = event["version"]
        while self.steps and self.steps[-1].version >= event["version"]:
            step = self.steps.pop()
            for name, version in step.batch:
                del self.closed[name], self.committed[name]
                self.open[name] = version
                self.report.num_committed -= 1
                if name in step.masked:
                    self.report.num_masked -= 1
                else:
                    self.report.staleness[step.version - version] -= 1
            self.reused.difference_update(step.reused)
            self.report.num_reused -= len(step.reused)
        self.undone |= {name for name, version in self.open.items() if version > event["version"]}


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
