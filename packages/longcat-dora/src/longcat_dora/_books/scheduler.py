"""Who generates, who waits, what may be trained on: a state machine without clock or tasks.

What always holds, with `n` the version in training and `H = hard_staleness`:

- C1  A trajectory is started on one version and never moves to another (but see `continue` and
  `mask`).
- C2  A started trajectory is committed once, or ended once with a reason.
- C3  `n - v <= H` for every trajectory of version `v` that is trained on at `n`.

C3 needs no dropping. A step is allowed only if it takes along every open trajectory of version
`n - H`; what stays behind is then at least of version `n + 1 - H`, and `n` becomes `n + 1`.
If one of those is still being sampled, `at_bound` decides (see `AtBound` in `config`). The soft
target shapes
admission: at most `(soft_staleness + 1) * groups_per_batch` groups are open, those in training
included. One batch of them leaves with every step, so that a group stays for `soft_staleness + 1`
steps on average (Little's law), and is `soft_staleness` steps old when it is trained on.

    admit ──> start ──> finish ──┐            ┌──> commit ──> (lease again: reuse)
                │                ├─> lease ───┘
                └──> fail ──> (another attempt)    evict (no signal, too few left, end of run)

Every transition costs the same whatever is open, and is recorded as an event; `take_events` hands
them to the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from longcat_dora._log.events import Admitted, Committed, Event, Produced, Started
from longcat_dora._types import EndReason, LongcatDoraError

from .bound import Bound
from .config import SchedulerConfig
from .group import Group, Index, Seat
from .quotas import Quotas
from .reuse import Reuse


@dataclass(frozen=True, slots=True)
class Start:
    """An order to sample one trajectory."""

    trajectory: str
    group: str
    task: str
    version: int
    member: int = 0
    """Of the group."""
    attempt: int = 0
    """At this member's place; with the group and the member, what its seed is made of."""

    def seed(self, run: int) -> int:
        """What the attempt samples with in a run of this seed, wherever it is started."""
        name = f"{run}:{self.group}:{self.member}:{self.attempt}"
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "little")


class Scheduler:
    """The state of one run.

    Example:
        >>> scheduler = Scheduler(SchedulerConfig(groups_per_batch=1, group_size=1))
        >>> scheduler.admit("g0", task="t", domain="")
        >>> start = scheduler.start()
        >>> scheduler.finish(start.trajectory, reward=1.0)
        True
        >>> scheduler.lease()
        ['g0']
        >>> scheduler.commit()
        1
    """

    def __init__(self, config: SchedulerConfig, *, version: int = 0) -> None:
        self.config, self.version = config, version
        self._index = Index()
        self._leased: list[Group] | None = None
        self._num_groups = self._num_trajectories = 0
        self._events: list[Event] = []
        self._bound = Bound(config, self._index, self)
        self._quotas, self._reuse = Quotas(config), Reuse(config)

    # -- what a runtime asks -----------------------------------------------------------------

    def take_events(self) -> list[Event]:
        """Return the events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def take_discarded(self) -> list[str]:
        """Return the trajectories that were ended at the bound since the last call."""
        return self._bound.take_discarded()

    def take_moved(self) -> list[tuple[str, int]]:
        """Return the trajectories that go on under another version since the last call, with it."""
        return self._bound.take_moved()

    def take_complete(self) -> list[str]:
        """Return the groups that have become complete since the last call."""
        return self._index.take_new()

    def is_running(self, trajectory: str) -> bool:
        """Whether a trajectory is being sampled."""
        group = self._index.group_of.get(trajectory)
        return group is not None and trajectory in group.running

    @property
    def num_running(self) -> int:
        """Trajectories being sampled."""
        return self._index.num_running

    @property
    def is_wanting(self) -> bool:
        """Whether a group has attempts that are still to be started."""
        return self._index.wanting() is not None

    @property
    def num_open_groups(self) -> int:
        """Groups that are neither committed nor evicted."""
        return len(self._index.groups)

    @property
    def running(self) -> list[str]:
        """Ids of the trajectories being sampled, oldest group first."""
        return list(self._index.running())

    @property
    def live_versions(self) -> list[int]:
        """Versions that must stay available: the newest, and those being sampled on."""
        return sorted({*self._index.num_running_of, self.version})

    @property
    def reusable(self) -> list[str]:
        """Trajectories that were trained on and may be once more."""
        return self._reuse.members

    def can_admit(self) -> bool:
        """Whether another group may be opened; those in training count until they are committed."""
        return len(self._index.groups) < self.config.max_open_groups

    def next_domain(self, domains: Collection[str]) -> str:
        """The domain that is furthest behind its quota, counting what is open."""
        return self._quotas.next_domain(domains)

    def blocked_by(self) -> list[str]:
        """Trajectories whose end the next step must wait for, to keep the hard bound."""
        return [name for group in self._bound.due() for name in group.running]

    # -- transitions -------------------------------------------------------------------------

    def admit(
        self, group: str, *, task: str, domain: str, size: int | None = None, **fields: Any
    ) -> None:
        """Open a group of `size` attempts at a task, or `group_size`; `fields` are for the log."""
        if group in self._index.groups:
            raise LongcatDoraError(f"group {group!r} is open already")
        size = self.config.group_size if size is None else size
        attempts = size * (self.config.max_attempts - 1)
        seats = [Seat(member, 0) for member in range(size)]
        self._add(Group(group, task, domain, self._num_groups, seats, attempts))
        self._events.append(cast("Admitted", {
            "kind": "admitted", "group": group, "task": task, "domain": domain, "size": size,
            **fields,
        }))  # fmt: skip

    def _add(self, group: Group) -> None:
        self._num_groups += 1
        self._index.add(group)
        self._quotas.opened(group)

    def start(self) -> Start | None:
        """Order the next trajectory, of the oldest group that wants one.

        `None` if none may start.
        """
        if self._index.num_running >= self.config.max_running:
            return None
        if self._leased is not None and self.config.hard_staleness == 0:
            return None  # it would be too old as soon as the step is done
        group = self._index.wanting()
        if group is None:
            return None
        name = f"t{self._num_trajectories:06d}"
        self._num_trajectories += 1
        member, attempt = self._index.run(group, name, self.version)
        event: Started = {
            "kind": "started", "trajectory": name, "group": group.id, "version": self.version,
            "member": member, "attempt": attempt,
        }  # fmt: skip
        self._events.append(event)
        return Start(name, group.id, group.task, self.version, member, attempt)

    def finish(self, trajectory: str, *, version: int | None = None, **fields: Any) -> bool:
        """A trajectory is complete; return whether it is kept.

        Args:
            trajectory: One being sampled.
            version: Of its newest token; what the scheduler knows when absent. An older one means
                that it was finished before it heard that it was to go on: it is discarded, or
                masked.
            **fields: For the log.
        """
        group = self._running_group(trajectory)
        known = group.running[trajectory]
        version = known if version is None else version
        if version < known and self.config.at_bound == "continue":
            self._bound.expire(group, trajectory)
            return False
        self._index.finish(group, trajectory, version)
        self._events.append(cast("Produced", {
            "kind": "produced", "trajectory": trajectory, "group": group.id, "version": version,
            **fields,
        }))  # fmt: skip
        if version < known:
            self._index.mask(group, trajectory)
            self._bound.close_if_hollow(group)
        return True

    def fail(self, trajectory: str, reason: EndReason, *, detail: str = "") -> None:
        """A trajectory ended without a result; another attempt takes its place while any is left.

        One that is `masked` needs no other attempt: the group makes do without it.
        """
        group = self._running_group(trajectory)
        again = reason != EndReason.MASKED and group.attempts_left > 0
        group.attempts_left -= again
        self.end_member(group, trajectory, reason, detail, again=again)
        if not group.size:
            self.evict(group.id, EndReason.FAILED)
        else:
            self._bound.close_if_hollow(group)

    def complete_groups(self) -> list[str]:
        """Groups all of whose members are finished, oldest first; not those leased."""
        return [group.id for group in self._index.complete()]

    def members(self, group: str) -> list[str]:
        """The finished trajectories of a group, in the order of their places in it."""
        return self._index.groups[group].members

    def evict(self, group: str, reason: EndReason) -> None:
        """Close a group that will not be trained on."""
        gone = self._index.groups[group]
        if gone.running:
            raise LongcatDoraError(f"group {group!r} has running members, it cannot be evicted")
        self._remove(gone)
        self._events.append({
            "kind": "evicted", "group": group, "reason": str(reason), "trajectories": gone.members,
        })  # fmt: skip

    def _remove(self, group: Group, *, is_trained_on: bool = False) -> None:
        self._index.remove(group)
        self._quotas.closed(group, is_trained_on=is_trained_on)

    def lease(self, *, at_least: int | None = None) -> list[str] | None:
        """Choose the groups of the next step; `None` while the step has to wait.

        All groups that would otherwise break the hard bound, then the oldest complete ones, or
        those of the domains that are furthest behind. `batch` has their trajectories.
        """
        if self._leased is not None:
            raise LongcatDoraError("the last lease was not committed")
        num_reused = self._reuse.num_due(self.version)
        num = max(1, (at_least or self.config.groups_per_batch) - num_reused)
        if self._index.num_complete < num:
            return None
        if self.config.at_bound != "wait":
            self._bound.make_way()
        due = self._bound.due()
        if any(not group.is_complete for group in due) or self._index.num_complete < num:
            return None
        num = self.config.groups_per_batch - num_reused
        chosen = self._quotas.choose(due, self._index.complete(), num)
        self._reuse.take(num_reused)
        self._leased = chosen
        for group in chosen:
            self._index.lease(group)
        self._assert_bound(chosen)
        names = [group.id for group in chosen]
        self._events.append({"kind": "leased", "version": self.version, "groups": names})
        return names

    @property
    def leased(self) -> list[str]:
        """Groups that are being trained on for the first time."""
        return [group.id for group in self._leased or ()]

    def batch(self) -> list[str]:
        """Trajectories of the leased groups, in order, then those that are reused."""
        fresh = [name for group in self._leased or () for name in group.members]
        return fresh + self._reuse.taken

    @property
    def masked(self) -> set[str]:
        """Trajectories of the batch that are not learned from."""
        return {name for group in self._leased or () for name in group.masked}

    def commit(self) -> int:
        """The leased groups were trained on; return the new version."""
        names: list[str] = []
        masked = sorted(self.masked)
        for group in self._leased or ():
            members = group.members
            names += members
            self._reuse.add(group, members)
            self._remove(group, is_trained_on=True)
        event: Committed = {
            "kind": "committed", "version": self.version, "trajectories": names,
        }  # fmt: skip
        if masked:
            event["masked"] = masked
        if self._reuse.taken:
            event["reused"] = self._reuse.taken
        self._leased = None
        self._reuse.commit()
        self.version += 1
        self._events.append(event)
        self._events.append({"kind": "published", "version": self.version})
        return self.version

    def end(self, reason: EndReason = EndReason.RUN_ENDED) -> None:
        """Close everything that is open; running trajectories end with the reason too."""
        for group in list(self._index.groups.values()):
            for name in list(group.running):
                self.end_member(group, name, reason, again=False)
            self.evict(group.id, reason)

    # -- recovery ----------------------------------------------------------------------------

    def adopt(
        self,
        group: str,
        *,
        task: str,
        domain: str,
        finished: Mapping[str, tuple[int, int, int]],
        wanted: Sequence[tuple[int, int]],
    ) -> None:
        """Take over a group of an earlier run.

        Args:
            group: Its name.
            task: Its task.
            domain: Of the task.
            finished: Trajectory to its version, member and attempt.
            wanted: Member and attempt of those to be sampled still.
        """
        seats = {name: Seat(member, attempt) for name, (_, member, attempt) in finished.items()}
        attempts = (len(finished) + len(wanted)) * (self.config.max_attempts - 1)
        self._add(Group(
            group, task, domain, self._num_groups, sorted(Seat(*seat) for seat in wanted), attempts,
            finished={name: version for name, (version, _, _) in finished.items()}, seats=seats,
        ))  # fmt: skip

    def skip_names(self, num_trajectories: int) -> None:
        """Name trajectories from this number on."""
        self._num_trajectories = num_trajectories

    # -- parts -------------------------------------------------------------------------------

    def _assert_bound(self, groups: Sequence[Group]) -> None:
        for group in groups:
            oldest = group.oldest
            assert oldest is not None
            assert self.version - oldest <= self.config.hard_staleness, "C3 would be broken"

    def _running_group(self, trajectory: str) -> Group:
        group = self._index.group_of.get(trajectory)
        if group is None or trajectory not in group.running:
            raise LongcatDoraError(f"trajectory {trajectory!r} is not being sampled")
        return group

    def end_member(
        self, group: Group, name: str, reason: EndReason, detail: str = "", *, again: bool
    ) -> None:
        """A member of a group ends without a result.

        See `fail`, which also looks after the group.
        """
        self._index.drop(group, name, again=again)
        # Of a traceback, the end is what says most.
        self._events.append({
            "kind": "ended", "trajectory": name, "reason": str(reason), "again": again,
            "detail": detail[-500:],
        })  # fmt: skip

    def note(self, event: Event) -> None:
        """Record an event."""
        self._events.append(event)
