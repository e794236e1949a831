"""A group of attempts at one task, and an index over all groups that are open.

The index answers in constant time what the scheduler asks at every event: how many trajectories are
being sampled, which groups want one more, which have just become complete, which hold an old
version.
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Seat(NamedTuple):
    """A place in a group, and which attempt is to take it: what a rollout's seed is made of."""

    member: int
    attempt: int


@dataclass(slots=True)
class Group:
    """Attempts at one task; each is running or finished, under a version."""

    id: str
    task: str
    domain: str
    serial: int
    """In order of admission."""
    wanted: list[Seat]
    """Attempts that are still to be started."""
    attempts_left: int
    running: dict[str, int] = field(default_factory=dict[str, int])
    """Trajectory to version."""
    finished: dict[str, int] = field(default_factory=dict[str, int])
    seats: dict[str, Seat] = field(default_factory=dict[str, Seat])
    """Of running and finished trajectories."""
    masked: set[str] = field(default_factory=set[str])
    """Finished, and too old to be learned from; they count for the group's mean."""
    is_leased: bool = False

    @property
    def size(self) -> int:
        """Members that it has or will have."""
        return len(self.wanted) + len(self.running) + len(self.finished)

    @property
    def is_complete(self) -> bool:
        """Whether it can be trained on."""
        return not (self.running or self.wanted or self.is_leased) and bool(self.finished)

    @property
    def oldest(self) -> int | None:
        """The least version that would be trained on."""
        learned = (v for name, v in self.finished.items() if name not in self.masked)
        return min([*self.running.values(), *learned], default=None)

    @property
    def members(self) -> list[str]:
        """The finished trajectories in the order of their seats, whoever was first."""
        return sorted(self.finished, key=lambda name: self.seats[name])


class Index:
    """All open groups, in order of admission. Every change of a group goes through it."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.group_of: dict[str, Group] = {}
        self.num_running = 0
        self.num_running_of: Counter[int] = Counter()
        """By version."""
        self._holding: dict[int, Counter[str]] = {}
        """Version to the groups that hold a member of it, with how many."""
        self._wanting: list[tuple[int, str]] = []
        self._complete: dict[str, None] = {}
        self._new: list[str] = []

    # -- questions ---------------------------------------------------------------------------

    def wanting(self) -> Group | None:
        """The oldest group that wants another attempt."""
        while self._wanting:
            group = self.groups.get(self._wanting[0][1])
            if group is not None and group.wanted and not group.is_leased:
                return group
            heapq.heappop(self._wanting)
        return None

    def complete(self) -> list[Group]:
        """Groups that can be trained on, oldest first."""
        return sorted((self.groups[name] for name in self._complete), key=lambda g: g.serial)

    @property
    def num_complete(self) -> int:
        """How many can be trained on."""
        return len(self._complete)

    def take_new(self) -> list[str]:
        """Groups that have become complete since the last call, and still are."""
        new, self._new = self._new, []
        return [name for name in new if name in self._complete]

    def holding(self, limit: int) -> list[Group]:
        """Groups with a member of version `limit` or older to be trained on, oldest first."""
        found = {
            name for version, names in self._holding.items() if version <= limit for name in names
        }
        return sorted((self.groups[name] for name in found), key=lambda g: g.serial)

    # -- changes -----------------------------------------------------------------------------

    def add(self, group: Group) -> None:
        """Open a group."""
        self.groups[group.id] = group
        for name, version in group.finished.items():
            self.group_of[name] = group
            self._hold(group, version)
        self._touch(group)

    def remove(self, group: Group) -> None:
        """Close a group none of whose members is running."""
        for name, version in group.finished.items():
            del self.group_of[name]
            if name not in group.masked:
                self._let_go(group, version)
        self._complete.pop(group.id, None)
        del self.groups[group.id]

    def run(self, group: Group, name: str, version: int) -> Seat:
        """An attempt begins, at the first seat that is wanted."""
        seat = group.wanted.pop(0)
        group.running[name], group.seats[name] = version, seat
        self.group_of[name] = group
        self._count(version, 1)
        self._hold(group, version)
        self._touch(group)
        return seat

    def finish(self, group: Group, name: str, version: int) -> None:
        """An attempt is complete, under this version at last."""
        self._stop(group, name)
        group.finished[name] = version
        self._hold(group, version)
        self._touch(group)

    def move(self, group: Group, name: str, version: int) -> None:
        """An attempt goes on under another version."""
        self._stop(group, name)
        group.running[name] = version
        self._count(version, 1)
        self._hold(group, version)

    def drop(self, group: Group, name: str, *, again: bool) -> None:
        """An attempt is gone, running or finished.

        Another one takes its seat, or the group shrinks.
        """
        if name in group.running:
            self._stop(group, name)
        else:
            version = group.finished.pop(name)
            if name not in group.masked:
                self._let_go(group, version)
            group.masked.discard(name)
        seat = group.seats.pop(name)
        if again:
            bisect.insort(group.wanted, Seat(seat.member, seat.attempt + 1))
        del self.group_of[name]
        self._touch(group)

    def shrink(self, group: Group) -> None:
        """A group makes do with what it has."""
        group.wanted.clear()
        self._touch(group)

    def mask(self, group: Group, name: str) -> None:
        """A finished attempt will not be learned from."""
        group.masked.add(name)
        self._let_go(group, group.finished[name])

    def lease(self, group: Group) -> None:
        """A group is being trained on."""
        group.is_leased = True
        self._touch(group)

    # -- parts -------------------------------------------------------------------------------

    def _stop(self, group: Group, name: str) -> None:
        version = group.running.pop(name)
        self._count(version, -1)
        self._let_go(group, version)

    def _count(self, version: int, num: int) -> None:
        self.num_running += num
        self.num_running_of[version] += num
        if not self.num_running_of[version]:
            del self.num_running_of[version]

    def _hold(self, group: Group, version: int) -> None:
        self._holding.setdefault(version, Counter())[group.id] += 1

    def _let_go(self, group: Group, version: int) -> None:
        names = self._holding[version]
        names[group.id] -= 1
        if not names[group.id]:
            del names[group.id]
            if not names:
                del self._holding[version]

    def _touch(self, group: Group) -> None:
        """Note what a group wants now, and whether it is complete."""
        if group.wanted and not self._is_listed(group):
            heapq.heappush(self._wanting, (group.serial, group.id))
        if group.is_complete and group.id not in self._complete:
            self._complete[group.id] = None
            self._new.append(group.id)
        elif not group.is_complete:
            self._complete.pop(group.id, None)

    def _is_listed(self, group: Group) -> bool:
        return bool(self._wanting) and self._wanting[0] == (group.serial, group.id)

    def running(self) -> Iterator[str]:
        """Trajectories being sampled, oldest group first."""
        return (name for group in self.groups.values() for name in group.running)
