"""Who generates, who waits, what may be trained on: a state machine without clock or tasks.

What always holds, with `n` the version in training and `H = hard_staleness`:

- C1  A trajectory is started on one version and never moves to another.
- C2  A started trajectory is committed once, or ended once with a reason.
- C3  `n - v <= H` for every trajectory of version `v` that is trained on at `n`.

C3 needs no dropping. A step is allowed only if it takes along every open trajectory of version
`n - H`; what stays behind is then at least of version `n + 1 - H`, and `n` becomes `n + 1`.
If one of those is still being sampled, the step waits for it, or (`at_bound="discard"`) it ends with a
reason and is sampled anew. The soft target shapes admission:
at most `(soft_staleness + 1) * groups_per_batch` groups are open, those in training included. One
batch of them leaves with every step, so that a group stays for `soft_staleness + 1` steps on average
(Little's law), and is `soft_staleness` steps old when it is trained on.

    admit ──> start ──> finish ──┐            ┌──> commit
                │                ├─> lease ───┘
                └──> fail ──> (another attempt)    evict (no signal, too few left, end of run)

Every transition is recorded as an event; `take_events` hands them to the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ._types import EndReason, LongcatDoraError

Event = dict[str, Any]
AtBound = Literal["wait", "discard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Sizes and bounds."""

    groups_per_batch: int = 4
    group_size: int = 8
    """Attempts at each task; advantages are formed within a group."""
    soft_staleness: int = 1
    """Steps a trajectory waits on average: shapes admission."""
    hard_staleness: int = 4
    """Never exceeded: the trainer waits instead."""
    max_running: int = 64
    """Trajectories being sampled at once."""
    max_attempts: int = 3
    """Of one member of a group, after which the group makes do without it."""
    at_bound: AtBound = "wait"
    """What happens when the hard bound is reached and a group is not complete: the trainer waits for it,
    and nothing is lost; or what is too old ends as `expired` and is sampled anew (as in the 2509 report)."""

    def __post_init__(self) -> None:
        if self.at_bound not in get_args(AtBound):
            raise ValueError(f"at_bound must be one of {get_args(AtBound)}, got {self.at_bound!r}")
        for name in ("groups_per_batch", "group_size", "max_running", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.soft_staleness <= self.hard_staleness:
            raise ValueError(
                f"need 0 <= soft_staleness <= hard_staleness, got {self.soft_staleness} and "
                f"{self.hard_staleness}"
            )

    @property
    def max_open_groups(self) -> int:
        """`(soft_staleness + 1) * groups_per_batch`."""
        return (self.soft_staleness + 1) * self.groups_per_batch


@dataclass(frozen=True, slots=True)
class Start:
    """An order to sample one trajectory."""

    trajectory: str
    group: str
    task: str
    version: int


@dataclass(slots=True)
class _Group:
    id: str
    task: str
    domain: str
    size: int
    num_issued: int = 0
    running: dict[str, int] = field(default_factory=dict[str, int])
    """Trajectory to version."""
    finished: dict[str, int] = field(default_factory=dict[str, int])
    attempts_left: int = 0

    @property
    def is_complete(self) -> bool:
        return not self.running and len(self.finished) >= self.size

    @property
    def oldest(self) -> int | None:
        return min([*self.running.values(), *self.finished.values()], default=None)


class Scheduler:
    """The state of one run.

    Example:
        >>> scheduler = Scheduler(SchedulerConfig(groups_per_batch=1, group_size=1))
        >>> scheduler.admit("g0", task="t", domain="")
        >>> start = scheduler.start()
        >>> scheduler.finish(start.trajectory, reward=1.0)
        >>> scheduler.lease()
        ['g0']
        >>> scheduler.commit()
        1
    """

    def __init__(self, config: SchedulerConfig, *, version: int = 0) -> None:
        self.config, self.version = config, version
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[str, str] = {}
        self._leased: list[str] = []
        self._num_trajectories = 0
        self._events: list[Event] = []
        self._discarded: list[str] = []

    # -- what a runtime asks -----------------------------------------------------------------

    def take_events(self) -> list[Event]:
        """Return the events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def take_discarded(self) -> list[str]:
        """Return the trajectories that were ended at the bound since the last call."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def is_running(self, trajectory: str) -> bool:
        """Whether a trajectory is being sampled."""
        group = self._group_of.get(trajectory)
        return group is not None and trajectory in self._groups[group].running

    @property
    def num_running(self) -> int:
        """Trajectories being sampled."""
        return sum(len(group.running) for group in self._groups.values())

    @property
    def num_open_groups(self) -> int:
        """Groups that are neither committed nor evicted."""
        return len(self._groups)

    @property
    def running(self) -> list[str]:
        """Ids of the trajectories being sampled, oldest group first."""
        return [name for group in self._groups.values() for name in group.running]

    @property
    def live_versions(self) -> list[int]:
        """Versions that must stay available: the newest, and those being sampled on."""
        versions = {v for group in self._groups.values() for v in group.running.values()}
        return sorted(versions | {self.version})

    def can_admit(self) -> bool:
        """Whether another group may be opened; those in training count until they are committed."""
        return len(self._groups) < self.config.max_open_groups

    def blocked_by(self) -> list[str]:
        """Trajectories whose end the next step must wait for, to keep the hard bound."""
        return [name for group in self._due() for name in group.running]

    # -- transitions -------------------------------------------------------------------------

    def admit(self, group: str, *, task: str, domain: str) -> None:
        """Open a group of `group_size` attempts at a task."""
        if group in self._groups:
            raise LongcatDoraError(f"group {group!r} is open already")
        size = self.config.group_size
        attempts = size * (self.config.max_attempts - 1)
        self._groups[group] = _Group(group, task, domain, size, attempts_left=attempts)
        self._emit("admitted", group=group, task=task, domain=domain, size=size)

    def start(self) -> Start | None:
        """Order the next trajectory, of the oldest group that wants one; `None` if none may start."""
        if self.num_running >= self.config.max_running:
            return None
        if self._leased and self.config.hard_staleness == 0:
            return None  # it would be too old as soon as the step is done
        for group in self._groups.values():
            if group.num_issued < group.size and group.id not in self._leased:
                return self._start(group)
        return None

    def _start(self, group: _Group) -> Start:
        name = f"t{self._num_trajectories:06d}"
        self._num_trajectories += 1
        group.num_issued += 1
        group.running[name] = self.version
        self._group_of[name] = group.id
        self._emit("started", trajectory=name, group=group.id, version=self.version)
        return Start(name, group.id, group.task, self.version)

    def finish(self, trajectory: str, **fields: Any) -> None:
        """A trajectory is complete; `fields` go to the log."""
        group = self._running_group(trajectory)
        version = group.running.pop(trajectory)
        group.finished[trajectory] = version
        self._emit("produced", trajectory=trajectory, group=group.id, version=version, **fields)

    def fail(self, trajectory: str, reason: EndReason, *, detail: str = "") -> None:
        """A trajectory ended without a result; another attempt takes its place while any is left."""
        group = self._running_group(trajectory)
        del group.running[trajectory], self._group_of[trajectory]
        self._emit("ended", trajectory=trajectory, reason=str(reason), detail=detail[:500])
        self._try_again(group, EndReason.FAILED)

    def _try_again(self, group: _Group, reason: EndReason) -> None:
        """Let another attempt take the place of one that ended, while any is left."""
        group.num_issued -= 1
        if group.attempts_left > 0:
            group.attempts_left -= 1
        else:
            group.size -= 1
            if group.size == 0:
                self.evict(group.id, reason)

    def complete_groups(self) -> list[str]:
        """Groups all of whose members are finished, oldest first; not those leased."""
        return [g.id for g in self._groups.values() if g.is_complete and g.id not in self._leased]

    def members(self, group: str) -> list[str]:
        """The finished trajectories of a group."""
        return list(self._groups[group].finished)

    def evict(self, group: str, reason: EndReason) -> None:
        """Close a group that will not be trained on."""
        gone = self._groups.pop(group)
        if gone.running:
            raise LongcatDoraError(f"group {group!r} has running members, it cannot be evicted")
        for name in gone.finished:
            del self._group_of[name]
        self._emit("evicted", group=group, reason=str(reason), trajectories=list(gone.finished))

    def lease(self, *, at_least: int | None = None) -> list[str] | None:
        """Choose the groups of the next step; `None` while the step has to wait.

        All groups that would otherwise break the hard bound, then the oldest complete ones.
        """
        if self._leased:
            raise LongcatDoraError("the last lease was not committed")
        if self.config.at_bound == "discard":
            self._discard()
        due = self._due()
        if any(not group.is_complete for group in due):
            return None
        complete = self.complete_groups()
        if len(complete) < (at_least or self.config.groups_per_batch):
            return None
        chosen = [group.id for group in due]
        for name in complete:
            if len(chosen) >= self.config.groups_per_batch:
                break
            if name not in chosen:
                chosen.append(name)
        self._leased = chosen
        self._assert_bound(chosen)
        self._emit("leased", version=self.version, groups=chosen)
        return chosen

    def commit(self) -> int:
        """The leased groups were trained on; return the new version."""
        names = [name for group in self._leased for name in self._groups[group].finished]
        for group in self._leased:
            del self._groups[group]
        for name in names:
            del self._group_of[name]
        self._leased = []
        self._emit("committed", version=self.version, trajectories=names)
        self.version += 1
        self._emit("published", version=self.version)
        return self.version

    def end(self, reason: EndReason = EndReason.RUN_ENDED) -> None:
        """Close everything that is open; running trajectories end with the reason too."""
        for group in list(self._groups.values()):
            for name in list(group.running):
                del group.running[name], self._group_of[name]
                self._emit("ended", trajectory=name, reason=str(reason), detail="")
            self.evict(group.id, reason)

    # -- recovery ----------------------------------------------------------------------------

    def adopt(self, group: str, *, task: str, domain: str, finished: dict[str, int]) -> None:
        """Take over a group of an earlier run as it stands, complete with what it has."""
        self._groups[group] = _Group(
            group, task, domain, len(finished), num_issued=len(finished), finished=dict(finished)
        )
        self._group_of.update(dict.fromkeys(finished, group))

    def skip_names(self, num_trajectories: int) -> None:
        """Name trajectories from this number on."""
        self._num_trajectories = num_trajectories

    # -- the bound ---------------------------------------------------------------------------

    def _discard(self) -> None:
        """End what is too old to wait for, in groups that are not complete.

        A group of which half is finished makes do with that; else its old members are sampled anew.
        """
        if len(self.complete_groups()) < self.config.groups_per_batch:
            return  # no step could be taken anyway
        limit = self.version - self.config.hard_staleness
        for group in [g for g in self._due() if not g.is_complete]:
            makes_do = len(group.finished) >= max(2, group.size / 2)
            for name, version in list(group.running.items()):
                if makes_do or version <= limit:
                    self._end_expired(group, name, group.running)
            if makes_do:
                group.size = group.num_issued = len(group.finished)
                continue
            for name, version in list(group.finished.items()):
                if version <= limit:
                    self._end_expired(group, name, group.finished)

    def _end_expired(self, group: _Group, name: str, members: dict[str, int]) -> None:
        del members[name], self._group_of[name]
        group.num_issued -= 1
        self._discarded.append(name)
        reason = str(EndReason.EXPIRED)
        self._emit(
            "ended", trajectory=name, reason=reason, detail="older than the hard bound allows"
        )

    # -- parts -------------------------------------------------------------------------------

    def _due(self) -> Sequence[_Group]:
        """Groups that must be part of the next step: they hold a trajectory of version `n - H`."""
        limit = self.version - self.config.hard_staleness
        return [g for g in self._groups.values() if g.oldest is not None and g.oldest <= limit]

    def _assert_bound(self, groups: Sequence[str]) -> None:
        for name in groups:
            oldest = self._groups[name].oldest
            assert oldest is not None
            assert self.version - oldest <= self.config.hard_staleness, "C3 would be broken"

    def _running_group(self, trajectory: str) -> _Group:
        name = self._group_of.get(trajectory)
        if name is None or trajectory not in self._groups[name].running:
            raise LongcatDoraError(f"trajectory {trajectory!r} is not being sampled")
        return self._groups[name]

    def _emit(self, kind: str, **fields: Any) -> None:
        self._events.append({"kind": kind, **fields})
