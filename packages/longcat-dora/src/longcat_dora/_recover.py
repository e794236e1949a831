"""What an interrupted run still has: read from its log alone.

Finished trajectories are kept where their group can still be trained on; what was being sampled
ends as `interrupted`. Steps since the checkpoint are undone: their trajectories return to the
queue, unless the version that sampled them is itself undone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ._types import EndReason

Event = dict[str, Any]
MIN_GROUP = 2
"""A group with fewer finished members has no advantages."""


@dataclass(slots=True)
class RecoveredGroup:
    """A group and its finished trajectories, by version."""

    id: str
    task: str
    domain: str
    finished: dict[str, int] = field(default_factory=dict[str, int])


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
class _State:
    groups: dict[str, RecoveredGroup] = field(default_factory=dict[str, RecoveredGroup])
    group_of: dict[str, str] = field(default_factory=dict[str, str])
    running: dict[str, int] = field(default_factory=dict[str, int])
    produced: dict[str, Event] = field(default_factory=dict[str, Event])
    closed: set[str] = field(default_factory=set[str])
    commits: list[tuple[int, list[str]]] = field(default_factory=list[tuple[int, list[str]]])
    num_trajectories: int = 0

    def read(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "admitted":
            group = RecoveredGroup(event["group"], event["task"], event["domain"])
            self.groups[group.id] = group
        elif kind == "started":
            self.group_of[event["trajectory"]] = event["group"]
            self.running[event["trajectory"]] = event["version"]
            self.num_trajectories += 1
        elif kind == "moved":
            self.running[event["trajectory"]] = event["version"]
        elif kind == "produced":
            self.running.pop(event["trajectory"], None)
            self.produced[event["trajectory"]] = event
        elif kind == "ended":
            self.running.pop(event["trajectory"], None)
            self.closed.add(event["trajectory"])
        elif kind == "evicted":
            self.closed.update(event["trajectories"])
        elif kind == "committed":
            self.commits.append((event["version"], event["trajectories"]))
            self.closed.update(event["trajectories"])
        elif kind == "restored":
            self.undo(event["version"])

    def undo(self, version: int) -> None:
        while self.commits and self.commits[-1][0] >= version:
            self.closed.difference_update(self.commits.pop()[1])


def recover(events: Iterable[Event], version: int, *, hard_staleness: int) -> Recovered:
    """Rebuild what a run had, as of the checkpoint of `version`.

    What would be older than the bound ends as `expired`: the bound may have been lowered meanwhile.
    """
    state = _State()
    for event in events:
        state.read(event)
    state.undo(version)
    out: list[Event] = [{"kind": "restored", "version": version}]

    def end(name: str, reason: EndReason) -> None:
        out.append({"kind": "ended", "trajectory": name, "reason": str(reason), "detail": ""})

    for name in state.running:
        end(name, EndReason.INTERRUPTED)
    kept: dict[str, list[str]] = {}
    for name, event in state.produced.items():
        if name in state.closed:
            continue
        if event["version"] > version:
            end(name, EndReason.ROLLED_BACK)
        elif event["version"] < version - hard_staleness:
            end(name, EndReason.EXPIRED)
        else:
            kept.setdefault(state.group_of[name], []).append(name)
    groups: list[RecoveredGroup] = []
    for group, names in kept.items():
        if len(names) < MIN_GROUP:
            for name in names:
                end(name, EndReason.INTERRUPTED)
            continue
        state.groups[group].finished = {name: state.produced[name]["version"] for name in names}
        groups.append(state.groups[group])
    produced = [state.produced[name] for group in groups for name in group.finished]
    return Recovered(groups, produced, out, state.num_trajectories, len(state.groups))
