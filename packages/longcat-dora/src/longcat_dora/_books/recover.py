"""What an interrupted run still has.

Read from its log alone, as it is read, in memory that does not grow with it.

- Finished trajectories are kept; what was being sampled ends as `interrupted`, and its seat in the
  group is sampled anew, so that no group is made of those alone who were fast.
- Steps since the checkpoint are undone: their trajectories return to the queue. Those of versions
  that are undone themselves end as `rolled_back`, and are sampled anew too.
- A step that no checkpoint can undo any more is forgotten (`saved` events tell which are kept).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from longcat_dora._log import events as ev
from longcat_dora._log.events import Event
from longcat_dora._log.summary import Summary
from longcat_dora._types import EndReason, LongcatDoraError, Task


@dataclass(slots=True)
class RecoveredGroup:
    """A group as it goes on."""

    admitted: ev.Admitted
    """Its `admitted` event, which points at the task."""
    task: Task | None = None
    """What `on_admitted` made of that."""
    finished: dict[str, tuple[int, int, int]] = field(
        default_factory=dict[str, tuple[int, int, int]]
    )
    """Trajectory to version, member and attempt."""
    wanted: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Member and attempt of what is sampled anew."""


@dataclass(slots=True)
class Recovered:
    """The state to continue from, and the events that lead to it from the end of the log."""

    groups: list[RecoveredGroup]
    produced: list[ev.Produced]
    """The `produced` events of what is kept; they point at the payloads."""
    events: list[Event]
    num_trajectories: int
    num_groups: int
    version: int
    """Of the checkpoint."""
    oldest_kept: int
    """Version of the oldest checkpoint that the log tells of."""


@dataclass(slots=True)
class _Open:
    """A group that is neither trained on for good nor evicted."""

    admitted: ev.Admitted
    seats: dict[int, int]
    """Members to the attempt that is next, or under way."""
    running: dict[str, int] = field(default_factory=dict[str, int])
    """Trajectory to member."""
    task: Task | None = None
    finished: dict[str, tuple[int, ev.Produced]] = field(
        default_factory=dict[str, tuple[int, ev.Produced]]
    )


_ANEW = (EndReason.INTERRUPTED, EndReason.ROLLED_BACK, EndReason.DAMAGED)
"""Ends after which the same attempt is made again."""


class RecoveryState:
    """Reads a log event by event: `read` all of them, then `recover`.

    Args:
        version: Of the checkpoint that the run will go on from.
        on_admitted: Is told of each group that was admitted, and may return its task.
    """

    def __init__(
        self, version: int, *, on_admitted: Callable[[ev.Admitted], Task | None] | None = None
    ) -> None:
        self.version, self.on_admitted = version, on_admitted
        self.newest: int | None = None
        """Version that the log has reached."""
        self.num_trajectories = self.num_groups = self.num_writers = 0
        self._open: dict[str, _Open] = {}
        self._group_of: dict[str, str] = {}
        """Of trajectories that are not over for good."""
        self._steps: deque[tuple[int, list[_Open]]] = deque()
        """Version, and the groups that were trained on; those that may be undone."""
        self._oldest_kept = self._num_events = 0
        self._first = 0
        """Version before which nothing can be undone, since it was archived."""

    def begin(self, summary: Summary) -> None:
        """Go on from what archived parts of the log left."""
        head = summary.head
        groups = {group["admitted"]["group"]: group for group in head["open"]}
        for name, domain, task in summary.admissions():
            group = groups.get(name)
            self._admitted(
                {"kind": "admitted", "group": name, "task": task, "domain": domain, "size": 0}
                if group is None
                else group["admitted"]
            )
            if group is None:
                del self._open[name]
            else:
                seats = self._open[name].seats
                seats.clear()
                for member, attempt in group["seats"]:
                    seats[member] = attempt
        for event in summary.events():
            if event["kind"] != "admitted":
                self._take(event)
        counts = head["counts"]
        self.num_trajectories, self.num_writers = counts["started"], counts["writers"]
        self._num_events = counts["events"]
        self.newest = self._first = head["version"]
        if head["saved"] is not None:
            self._oldest_kept = min(head["saved"]["kept"], default=0)

    def open_groups(self) -> Iterator[tuple[ev.Admitted, list[list[int]], list[str]]]:
        """Yield what is open.

        How it was admitted, its seats, and its members that have not ended.
        """
        for group in self._open.values():
            seats = [list(seat) for seat in group.seats.items()]
            yield group.admitted, seats, sorted([*group.running, *group.finished])

    def read(self, event: Event) -> None:
        """Take note of the next event of the log.

        Raises:
            LongcatDoraError: It cannot have come after those before it.
        """
        self._num_events += 1
        try:
            self._take(event)
        except KeyError as error:
            raise LongcatDoraError(
                f"the log cannot be continued: event {self._num_events}, {event['kind']!r}, names"
                f" {error},"
                " which no event before it explains; `longcat-dora check` says more"
            ) from error

    def _take(self, event: Event) -> None:
        match event["kind"]:
            case "admitted":
                self._admitted(event)
            case "started":
                self._started(event)
            case "produced":
                group = self._open[event["group"]]
                member = group.running.pop(event["trajectory"])
                group.finished[event["trajectory"]] = member, event
            case "ended":
                self._ended(event)
            case "evicted":
                self._forget(self._open.pop(event["group"]))
            case "committed":
                names = dict.fromkeys(self._group_of[name] for name in event["trajectories"])
                self._steps.append((event["version"], [self._open.pop(name) for name in names]))
            case "published":
                self.newest = event["version"]
            case "saved":
                self._oldest_kept = min(event["kept"], default=self._oldest_kept)
                self._forget_steps()
            case "restored":
                self._undo(event["version"])
                self.newest = event["version"]
            case "writer":
                self.num_writers += 1
            case _:
                pass

    def _admitted(self, event: ev.Admitted) -> None:
        group = _Open(event, dict.fromkeys(range(event["size"]), 0))
        self._open[event["group"]] = group
        self.num_groups += 1
        if self.on_admitted is not None:
            group.task = self.on_admitted(event)

    def _started(self, event: ev.Started) -> None:
        name, group = event["trajectory"], self._open[event["group"]]
        self._group_of[name] = event["group"]
        group.running[name] = event["member"]
        group.seats[event["member"]] = event["attempt"]
        self.num_trajectories += 1

    def _ended(self, event: ev.Ended) -> None:
        name = event["trajectory"]
        group = self._open[self._group_of.pop(name)]
        member = group.running.pop(name, None)
        if member is None:
            member, _ = group.finished.pop(name)
        if event.get("again"):
            group.seats[member] += 1
        elif event["reason"] not in _ANEW:
            del group.seats[member]

    def _forget(self, group: _Open) -> None:
        for name in (*group.running, *group.finished):
            self._group_of.pop(name, None)

    def _forget_steps(self) -> None:
        """Let go of steps before the oldest checkpoint that is kept: nothing can undo them."""
        limit = min(self._oldest_kept, self.version)
        while self._steps and self._steps[0][0] < limit:
            for group in self._steps.popleft()[1]:
                self._forget(group)

    def _undo(self, version: int) -> None:
        """Take steps at `version` and later back."""
        while self._steps and self._steps[-1][0] >= version:
            for group in self._steps.pop()[1]:
                self._open[group.admitted["group"]] = group

    def recover(self, *, hard_staleness: int) -> Recovered:
        """Rebuild what the run had, as of the checkpoint.

        What would be older than the bound ends as `expired`: the bound may have been lowered
        meanwhile.

        Raises:
            LongcatDoraError: The checkpoint is newer than the log, which has lost its end.
        """
        version = self.version
        if version > (self.newest or 0):
            raise LongcatDoraError(
                f"the log ends at version {self.newest or 0}, and the checkpoint is of version"
                f" {version}: the end of"
                " the log is lost. Put it back, or move newer checkpoints away; what lies between"
                " is sampled anew"
            )
        if version < self._first:
            raise LongcatDoraError(
                f"the checkpoint is of version {version}, and the log before version {self._first}"
                " was"
                " archived: put its parts back, or a newer checkpoint"
            )
        self._undo(version)
        out: list[Event] = [{"kind": "restored", "version": version}]
        groups: list[RecoveredGroup] = []
        produced: list[ev.Produced] = []
        for group in sorted(self._open.values(), key=lambda group: group.admitted["group"]):
            kept = RecoveredGroup(group.admitted, group.task)
            for name, member in group.running.items():
                out.append(end_of(name, EndReason.INTERRUPTED))
                kept.wanted.append((member, group.seats[member]))
            for name, (member, event) in group.finished.items():
                seat = (member, group.seats[member])
                if event["version"] > version:
                    out.append(end_of(name, EndReason.ROLLED_BACK))
                    kept.wanted.append(seat)
                elif event["version"] < version - hard_staleness:
                    out.append(end_of(name, EndReason.EXPIRED, again=True))
                    kept.wanted.append((member, seat[1] + 1))
                else:
                    kept.finished[name] = (event["version"], *seat)
                    produced.append(event)
            taken = {*group.running.values(), *(member for member, _ in group.finished.values())}
            kept.wanted += [seat for seat in group.seats.items() if seat[0] not in taken]
            groups.append(kept)
        return Recovered(
            groups, produced, out, self.num_trajectories, self.num_groups, version,
            self._oldest_kept,
        )  # fmt: skip


def recover(events: Iterable[Event], version: int, *, hard_staleness: int) -> Recovered:
    """Rebuild what a run had, as of the checkpoint of `version`."""
    state = RecoveryState(version)
    for event in events:
        state.read(event)
    return state.recover(hard_staleness=hard_staleness)


def end_of(
    name: str, reason: EndReason, detail: str = "", *, again: bool | None = None
) -> ev.Ended:
    """Return the event that a trajectory has ended."""
    event: ev.Ended = {"kind": "ended", "trajectory": name, "reason": str(reason), "detail": detail}
    if again is not None:
        event["again"] = again
    return event
