"""What an interrupted run still has: read from its log alone.

- Finished trajectories are kept; what was being sampled ends as `interrupted`, and its place in the group
  is sampled anew, so that no group is made of those alone who were fast.
- Steps since the checkpoint are undone: their trajectories return to the queue. Those of versions that are
  undone themselves end as `rolled_back`, and are sampled anew too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from longcat_dora._types import EndReason

Event = dict[str, Any]


@dataclass(slots=True)
class RecoveredGroup:
    """A group as it goes on."""

    admitted: Event
    """Its `admitted` event, which points at the task."""
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
    produced: list[Event]
    """The `produced` events of what is kept; they point at the payloads."""
    events: list[Event]
    num_trajectories: int
    num_groups: int


@dataclass(slots=True)
class _Open:
    """A group that is neither trained on nor evicted."""

    admitted: Event
    seats: dict[int, int]
    """Members to the attempt that is next, or under way."""
    running: dict[str, int] = field(default_factory=dict[str, int])
    """Trajectory to member."""
    finished: dict[str, tuple[int, Event]] = field(default_factory=dict[str, tuple[int, Event]])


@dataclass(slots=True)
class _State:
    open: dict[str, _Open] = field(default_factory=dict[str, _Open])
    group_of: dict[str, str] = field(default_factory=dict[str, str])
    steps: list[tuple[int, list[_Open]]] = field(default_factory=list[tuple[int, list[_Open]]])
    num_trajectories: int = 0
    num_groups: int = 0

    def read(self, event: Event) -> None:
        handler = getattr(self, f"_{event['kind']}", None)
        if handler is not None:
            handler(event)

    def _admitted(self, event: Event) -> None:
        self.open[event["group"]] = _Open(event, dict.fromkeys(range(event["size"]), 0))
        self.num_groups += 1

    def _started(self, event: Event) -> None:
        name, group = event["trajectory"], self.open[event["group"]]
        self.group_of[name] = event["group"]
        group.running[name] = event["member"]
        group.seats[event["member"]] = event["attempt"]
        self.num_trajectories += 1

    def _produced(self, event: Event) -> None:
        group = self.open[event["group"]]
        member = group.running.pop(event["trajectory"])
        group.finished[event["trajectory"]] = member, event

    def _ended(self, event: Event) -> None:
        name = event["trajectory"]
        group = self.open[self.group_of[name]]
        member = group.running.pop(name, None)
        if member is None:
            member, _ = group.finished.pop(name)
        if event.get("again"):
            group.seats[member] += 1
        elif event["reason"] not in (EndReason.INTERRUPTED, EndReason.ROLLED_BACK):
            del group.seats[member]

    def _evicted(self, event: Event) -> None:
        del self.open[event["group"]]

    def _committed(self, event: Event) -> None:
        names = dict.fromkeys(self.group_of[name] for name in event["trajectories"])
        self.steps.append((event["version"], [self.open.pop(name) for name in names]))

    def _restored(self, event: Event) -> None:
        self.undo(event["version"])

    def undo(self, version: int) -> None:
        """Take steps at `version` and later back."""
        while self.steps and self.steps[-1][0] >= version:
            for group in self.steps.pop()[1]:
                self.open[group.admitted["group"]] = group


def recover(events: Iterable[Event], version: int, *, hard_staleness: int) -> Recovered:
    """Rebuild what a run had, as of the checkpoint of `version`.

    What would be older than the bound ends as `expired`: the bound may have been lowered meanwhile.
    """
    state = _State()
    for event in events:
        state.read(event)
    state.undo(version)
    out: list[Event] = [{"kind": "restored", "version": version}]
    groups: list[RecoveredGroup] = []
    produced: list[Event] = []
    for group in sorted(state.open.values(), key=lambda group: group.admitted["group"]):
        kept = RecoveredGroup(group.admitted)
        for name, member in group.running.items():
            out.append(_end(name, EndReason.INTERRUPTED))
            kept.wanted.append((member, group.seats[member]))
        for name, (member, event) in group.finished.items():
            seat = (member, group.seats[member])
            if event["version"] > version:
                out.append(_end(name, EndReason.ROLLED_BACK))
                kept.wanted.append(seat)
            elif event["version"] < version - hard_staleness:
                out.append({**_end(name, EndReason.EXPIRED), "again": True})
                kept.wanted.append((member, seat[1] + 1))
            else:
                kept.finished[name] = (event["version"], *seat)
                produced.append(event)
        taken = {*group.running.values(), *(member for member, _ in group.finished.values())}
        kept.wanted += [seat for seat in group.seats.items() if seat[0] not in taken]
        groups.append(kept)
    return Recovered(groups, produced, out, state.num_trajectories, state.num_groups)


def _end(name: str, reason: EndReason) -> Event:
    return {"kind": "ended", "trajectory": name, "reason": str(reason), "detail": ""}
