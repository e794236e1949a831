"""What was trained on and may be once more, within the bound."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .config import SchedulerConfig
from .group import Group


@dataclass(frozen=True, slots=True)
class _Past:
    """A group that was trained on and may be once more."""

    id: str
    members: list[str]
    oldest: int


class Reuse:
    """Groups that were trained on, oldest first, and those of them in the next batch."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._past: deque[_Past] = deque()
        self._taken: list[_Past] = []
        self._owed = 0.0

    @property
    def members(self) -> list[str]:
        """Trajectories that may be trained on once more."""
        return [name for past in self._past for name in past.members]

    @property
    def taken(self) -> list[str]:
        """Trajectories of the batch that was leased."""
        return [name for past in self._taken for name in past.members]

    @property
    def _per_batch(self) -> float:
        return self._config.reuse_ratio * self._config.groups_per_batch

    def num_due(self, version: int) -> int:
        """How many groups the next batch takes; what is too old at this version is dropped."""
        limit = version - self._config.hard_staleness
        self._past = deque(past for past in self._past if past.oldest >= limit)
        return min(len(self._past), int(self._owed + self._per_batch))

    def take(self, num: int) -> None:
        """Take groups into a batch."""
        self._taken = [self._past.popleft() for _ in range(num)]
        self._owed += self._per_batch - num

    def add(self, group: Group, members: list[str]) -> None:
        """A group was trained on for the first time."""
        oldest = group.oldest
        if self._config.reuse_ratio and oldest is not None and not group.masked:
            self._past.append(_Past(group.id, members, oldest))

    def commit(self) -> None:
        """The batch was trained on: what was taken is not taken again."""
        self._taken = []
