"""Replay a log and find every breach of the contract.

The checker knows nothing of the scheduler: it keeps its own books from the events alone.
What a run allowed at the bound (`at_bound`) is in its log, and is no breach: with `continue` and
`mask` a trajectory may go on under a newer version, which must be told as it happens; with `mask`
what is too old may be in a batch, if it is told that nothing is learned from it.

- C1  A trajectory is produced and committed under the version it was started on, which was
      published before, and was not undone since.
- C2  A trajectory that was started ends exactly once: committed, ended or evicted. Only the log of
      a run that is still going may hold open ones. Its bytes are what was written.
- C3  Nothing is trained on that is older than the bound, or of a version not yet published; what is
      used again was trained on once before. No step is missing.

What cannot be judged (an empty log, a log without its bound) is said, and is not called clean.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_dora._types import LongcatDoraError, Payload

from .events import FORMAT, KINDS
from .lines import EVENTS
from .payloads import PayloadReader
from .reader import LogReader
from .report import Report
from .summary import Summary


@dataclass(slots=True)
class _Step:
    """One step, so that it can be undone."""

    version: int
    batch: list[tuple[str, int]]
    masked: set[str]
    reused: list[str]


class Checker:
    """The checker's books: `read` each event, then `close`.

    Args:
        payloads: Where trajectories' bytes are read; they are not when absent.
    """

    def __init__(self, payloads: PayloadReader | None = None) -> None:
        self.report = Report()
        self.payloads = payloads
        self.log: LogReader | None = None
        self.bound: int | None = None
        self.may_move = self.may_mask = False
        self.version: int | None = None
        self.first: int | None = None
        """The first version that was published."""
        self.digests: dict[int, str] = {}
        self.open: dict[str, int] = {}
        self.before: dict[str, list[int]] = {}
        """Versions that a trajectory was moved away from."""
        self.produced: set[str] = set()
        self.closed: dict[str, str] = {}
        self.committed: dict[str, int] = {}
        self.reused: set[str] = set()
        self.undone: set[str] = set()
        """Sampled on a version that a restore took back: another one has its number now."""
        self.damaged: dict[str, str] = {}
        """Trajectories whose bytes are not what was written, and what is wrong."""
        self.steps: deque[_Step] = deque()
        self.is_closed = False
        self.num_archived = 0
        """Of trajectories whose number is below this, those that are over are forgotten."""
        self.handlers = {
            "opened": self._opened, "published": self._published, "started": self._started,
            "moved": self._moved, "produced": self._produced, "ended": self._ended,
            "evicted": self._evicted, "committed": self._committed, "restored": self._restored,
            "weights": self._weights,
        }  # fmt: skip

    def begin(self, summary: Summary) -> None:
        """Go on from what archived parts of the log left.

        Nothing was committed that could be undone.
        """
        head, counts, report = summary.head, summary.head["counts"], self.report
        self._opened(head["opened"])
        self.version = self.first = head["version"]
        if head["digest"] is not None:
            self.digests[head["version"]] = head["digest"]
        for event in summary.events():
            self.read(event)
        self.committed.update(head.get("trained", {}))
        self.num_archived = counts["started"]
        report.num_events, report.num_started = counts["events"], counts["started"]
        report.num_committed, report.num_ended = counts["committed"], counts["ended"]
        report.num_moved, report.num_masked = counts["moved"], counts["masked"]
        report.num_reused = counts["reused"]
        report.reasons = Counter(counts["reasons"])
        report.staleness = Counter({int(k): num for k, num in counts["staleness"].items()})
        report.notes.append(
            f"judged from part {summary.before} of the log on; before it by its summary: {summary}"
        )

    def settle(self, limit: int) -> None:
        """Forget what is over, when no step before version `limit` can be undone or used again.

        No breach is missed for it: that a name was given before, its number tells.
        """
        self.num_archived = self.report.num_started
        while self.steps and self.steps[0].version < limit:
            for name, _ in self.steps.popleft().batch:
                del self.committed[name]
                self.reused.discard(name)
        for name in [name for name in self.closed if name not in self.committed]:
            if self._is_archived(name):
                del self.closed[name]
                self.produced.discard(name)
                self.undone.discard(name)
                self.before.pop(name, None)
        for version in [version for version in self.digests if version < limit]:
            del self.digests[version]

    def read(self, event: Any) -> None:
        """Take note of the next event."""
        self.report.num_events += 1
        try:
            kind = event["kind"]
            handler = self.handlers.get(kind)
            if handler is not None:
                handler(event)
            elif kind not in KINDS:
                self.breach("form", f"unknown kind {kind!r}")
            self.is_closed = kind == "closed"
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            self.breach("form", f"{str(event)[:80]} is no event of format {FORMAT}: {error!r}")

    def breach(self, rule: str, text: str) -> None:
        """Note a breach of a rule."""
        self.report.breaches.append(f"{rule}, {self._where()}: {text}")

    def _where(self) -> str:
        position = None if self.log is None else self.log.position
        if position is None:
            return f"event {self.report.num_events}"
        return f"{position.file.name} line {position.line}"

    def _opened(self, event: Mapping[str, Any]) -> None:
        self.bound = event["hard_staleness"]
        at_bound = event.get("at_bound", "wait")
        self.may_move, self.may_mask = at_bound in ("continue", "mask"), at_bound == "mask"

    def _published(self, event: Mapping[str, Any]) -> None:
        version = event["version"]
        if self.version is None:
            self.first = version
        elif version != self.version + 1:
            self.breach(
                "C3", f"version {version} is published after {self.version}: steps are missing"
            )
        elif not self.steps or self.steps[-1].version != self.version:
            self.breach("C3", f"version {version} is published, but no step led to it")
        self.version = version

    def _weights(self, event: Mapping[str, Any]) -> None:
        version, digest = event["version"], event["digest"]
        if version != self.version:
            self.breach("C1", f"weights of version {version}, newest published is {self.version}")
        before = self.digests.setdefault(version, digest)
        if before != digest:
            self.report.notes.append(
                f"{self._where()}: version {version} had weights {before}, and has {digest} after a"
                " restart"
            )

    def _started(self, event: Mapping[str, Any]) -> None:
        name, version = event["trajectory"], event["version"]
        is_known = name in self.open or name in self.closed
        if is_known or (self.num_archived and self._is_archived(name)):
            self.breach("C2", f"{name} is started twice")
        if self.version is None or version > self.version:
            self.breach("C1", f"{name} is started on version {version}, newest is {self.version}")
        self.report.num_started += 1
        self.open[name] = version

    def _is_archived(self, name: str) -> bool:
        """Whether a name was given before the first part that is read: they are numbered."""
        number = name.removeprefix("t")
        return number.isdigit() and int(number) < self.num_archived

    def _moved(self, event: Mapping[str, Any]) -> None:
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

    def _produced(self, event: Mapping[str, Any]) -> None:
        name, version = event["trajectory"], event["version"]
        if name not in self.open or name in self.produced:
            self.breach(
                "C2", f"{name} is produced, but {self.closed.get(name, 'not being sampled')}"
            )
            return
        known = (*self.before.pop(name, ()), self.open[name])
        seen = event.get("versions", (version,))
        if version not in known or not set(known).issuperset(seen):
            self.breach("C1", f"{name} was started on {known[0]}, sampled on {list(seen)}")
        self.open[name] = version  # it may have been finished before it heard that it was moved
        self.produced.add(name)
        if self.payloads is not None:
            self._weigh(self.payloads, name, event)

    def _weigh(self, payloads: PayloadReader, name: str, event: Mapping[str, Any]) -> None:
        """See whether a trajectory's bytes are what was written."""
        if "payload" not in event:
            self.breach("C2", f"{name} is produced, and the log does not say where its bytes are")
            return
        try:
            payloads.read(Payload(*event["payload"]))
        except LongcatDoraError as error:
            self.damaged[name] = str(error)
            return
        self.report.num_payloads += 1

    def _ended(self, event: Mapping[str, Any]) -> None:
        self._close(event["trajectory"], event["reason"])

    def _evicted(self, event: Mapping[str, Any]) -> None:
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
        if reason == "damaged":  # the run found it itself, and sampled anew
            self.damaged.pop(name, None)
        self.report.num_ended += 1
        self.report.reasons[reason] += 1

    def _committed(self, event: Mapping[str, Any]) -> None:
        now = event["version"]
        if now != self.version:
            self.breach("C3", f"a step at version {now}, newest published is {self.version}")
        if self.steps and self.steps[-1].version >= now:
            self.breach("C2", f"a step at version {now} was taken before")
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

    def _restored(self, event: Mapping[str, Any]) -> None:
        """Steps at `version` and later are undone; their trajectories are open again."""
        to = event["version"]
        if self.version is None or self.first is None or not self.first <= to <= self.version:
            self.breach(
                "C3",
                f"restored to version {to}, but published are {self.first} to {self.version}",
            )
        self.version = to
        while self.steps and self.steps[-1].version >= to:
            self._undo(self.steps.pop())
        for version in [version for version in self.digests if version > to]:
            del self.digests[version]
        self.undone |= {name for name, version in self.open.items() if version > to}

    def _undo(self, step: _Step) -> None:
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

    def close(self) -> Report:
        """Judge what only the end of the log can tell."""
        report = self.report
        report.num_open = len(self.open)
        report.staleness += Counter()  # drop zeros
        for name, problem in self.damaged.items():
            self.breach("C2", f"the bytes of {name} are not what was written: {problem}")
        if self.is_closed and self.open:
            names = ", ".join(list(self.open)[:5])
            self.breach("C2", f"the log is closed, but {len(self.open)} are open: {names}")
        if not report.num_events:
            report.not_judged.append("nothing judged: the log is empty")
        elif self.bound is None:
            report.not_judged.append("C3 not judged: no bound in the log")
        if self.log is not None and self.log.first and self.log.summary is None:
            report.not_judged.append(
                f"nothing judged before part {self.log.first} of the log: earlier ones are not"
                " here, and"
                " left no summary"
            )
        if self.log is not None and not self.log.has_end:
            report.not_judged.append(f"the end is not judged: {EVENTS} is not here")
        if self.log is not None and self.log.torn_bytes:
            report.notes.append(
                f"the last line is not finished ({self.log.torn_bytes} bytes): a crash, or a run"
                " that"
                " is writing it"
            )
        return report


def check(events: Iterable[Mapping[str, Any]] | LogReader | Path | str) -> Report:
    """Replay a log and report breaches.

    Args:
        events: A log folder, or what `read_events` returns: then trajectories' bytes are read too,
            and compared with their checksums. Or events alone.

    Raises:
        LongcatDoraError: A folder holds no log, or a line of it is not what was written.

    Example:
        >>> check([{"kind": "published", "version": 0},
        ...        {"kind": "started", "trajectory": "t0", "group": "g", "version": 1}]).breaches
        ['C1, event 2: t0 is started on version 1, newest is 0']
    """
    log = LogReader(events) if isinstance(events, (str, Path)) else events
    if not isinstance(log, LogReader):
        books = Checker()
        for event in log:
            books.read(event)
        return books.close()
    payloads = PayloadReader(log.folder)
    books = Checker(payloads)
    books.log = log
    try:
        if log.summary is not None:
            books.begin(log.summary)
        for event in log:
            books.read(event)
    finally:
        payloads.close()
    return books.close()
