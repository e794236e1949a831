"""What happens at the hard bound: see `AtBound` in `config`.

A step is allowed only if it takes along every open trajectory of version `n - H`. Here is which
groups these are, and what becomes of those that are not complete when the config does not wait for
them.
"""

from __future__ import annotations

from typing import Protocol

from longcat_dora._log.events import Event
from longcat_dora._types import EndReason

from .config import SchedulerConfig
from .group import Group, Index


class Books(Protocol):
    """The scheduler, as the bound acts upon it."""

    version: int

    def end_member(
        self, group: Group, name: str, reason: EndReason, detail: str = "", *, again: bool
    ) -> None:
        """A member ends without a result."""
        ...

    def evict(self, group: str, reason: EndReason) -> None:
        """Close a group that will not be trained on."""
        ...

    def note(self, event: Event) -> None:
        """Record an event."""
        ...


class Bound:
    """Keeps `n - v <= H`, and knows what it cost since it was last asked."""

    def __init__(self, config: SchedulerConfig, index: Index, books: Books) -> None:
        self.config, self._index, self._books = config, index, books
        self._discarded: list[str] = []
        self._moved: list[tuple[str, int]] = []

    def take_discarded(self) -> list[str]:
        """Return the trajectories that were ended since the last call."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def take_moved(self) -> list[tuple[str, int]]:
        """Return the trajectories that go on under another version since the last call, with it."""
        moved, self._moved = self._moved, []
        return moved

    @property
    def limit(self) -> int:
        """The oldest version that may be trained on now."""
        return self._books.version - self.config.hard_staleness

    def due(self) -> list[Group]:
        """Groups that must be part of the next step: they hold a trajectory of version `n - H`."""
        return self._index.holding(self.limit)

    def make_way(self) -> None:
        """See to it that groups which are not complete hold nothing of version `n - H`."""
        for group in self.due():
            if group.is_complete or (self.config.at_bound == "discard" and self._make_do(group)):
                continue
            self._clear(group, self.limit)

    def close_if_hollow(self, group: Group) -> None:
        """Evict a group of which nothing can be learned any more."""
        if group.is_complete and len(group.masked) == len(group.finished):
            self._books.evict(group.id, EndReason.EXPIRED)

    def expire(self, group: Group, name: str) -> None:
        """End a trajectory that is too old; another attempt takes its place."""
        self._discarded.append(name)
        self._books.end_member(
            group, name, EndReason.EXPIRED, "older than the hard bound allows", again=True
        )

    # -- parts -------------------------------------------------------------------------------

    def _clear(self, group: Group, limit: int) -> None:
        """Let go of a group's members of version `limit` and older, as the config says."""
        for name in [name for name, version in group.running.items() if version <= limit]:
            if self.config.at_bound == "discard":
                self.expire(group, name)
            else:
                self._move(group, name)
        old = [name for name, version in group.finished.items() if version <= limit]
        for name in old:
            if self.config.at_bound != "mask":
                self.expire(group, name)
            elif name not in group.masked:
                self._index.mask(group, name)
        self.close_if_hollow(group)

    def _make_do(self, group: Group) -> bool:
        """Train on a group of which half is finished without the rest; return whether it is one."""
        if len(group.finished) < max(2, group.size / 2):
            return False
        for name in list(group.running):
            self.expire(group, name)
        self._index.shrink(group)
        return True

    def _move(self, group: Group, name: str) -> None:
        before, version = group.running[name], self._books.version
        self._index.move(group, name, version)
        self._moved.append((name, version))
        self._books.note(
            {"kind": "moved", "trajectory": name, "before": before, "version": version}
        )
