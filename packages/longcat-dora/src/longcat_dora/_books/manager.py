"""The rollout manager: what a run knows of its trajectories, without their tokens.

    tasks ──> admit ──> start ──> a controller ──> finished ──> queue ──> lease ──> commit

Takes: reports of controllers. Gives: orders to them, batches to whoever trains. Keeps: the
scheduler, the log and the queue in step: whatever happens is in the log before it is acted upon. It
waits for nothing and starts nothing; the runtimes do.
"""

from __future__ import annotations

import collections
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from longcat_dora._log.events import Event, PayloadFields
from longcat_dora._log.lock import FolderLock
from longcat_dora._log.log import SEGMENT_BYTES, EventLog
from longcat_dora._log.payloads import PayloadFile, PayloadReader
from longcat_dora._rollout.messages import AbortRollout, Controller, MoveRollout, StartRollout
from longcat_dora._types import EndReason, Finished, Payload, Task, Trajectory

from .balance import LoadBalancer
from .clock import Clock
from .config import SchedulerConfig
from .continued import go_on, opened_event
from .queue import Lease, SampleQueue
from .recover import Recovered, RecoveredGroup, RecoveryState
from .scheduler import Scheduler, Start
from .tasks import TaskFeed, Tasks, encode_task

_LOGGER = logging.getLogger("longcat_dora")


class RolloutManager:
    """One run's books.

    Args:
        folder: Of the log; a log that is there is continued.
        config: Sizes and bounds.
        tasks: What to try, in order; or by domain, of which the one furthest behind its quota goes
            first. In a continued run those of before are passed over, unless `tasks_go_on`.
        version: That the trainer stands at.
        seed: Of what is sampled, by engines that take one.
        on_group: Called with each complete group, before it is filtered or queued.
        lock: Of the folder, if it is held already.
        segment_bytes: Of a part of the log, after which another one is begun.

    Raises:
        LongcatDoraError: Another process writes to the folder, the log is damaged, or its end is
            lost.
    """

    def __init__(
        self,
        folder: Path,
        config: SchedulerConfig,
        *,
        tasks: Tasks,
        version: int = 0,
        seed: int = 0,
        on_group: Callable[[list[Trajectory]], None] | None = None,
        lock: FolderLock | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        tasks_go_on: bool = False,
    ) -> None:
        self.on_group, self.seed = on_group, seed
        self._tasks = TaskFeed(tasks, keeps_equal=config.keep_equal_rewards, go_on=tasks_go_on)
        self.controllers: list[Controller] = []
        self.balancer = LoadBalancer()
        self._task_of: dict[str, Task] = {}
        """Of groups that want attempts still."""
        self.clock = Clock()
        self._rewards: list[float] = []
        self._backlog: collections.deque[RecoveredGroup] = collections.deque()
        """Groups of an earlier run of which nothing is kept."""
        self._reusable: set[str] = set()
        self._num_groups = self.num_filtered = self.num_without_signal = 0
        """Groups in a row, up to now, that had nothing to learn from."""
        self.num_truncated = self.num_splits = 0
        """Since `take_rewards`: trajectories that were cut by their length; edited histories."""
        state = RecoveryState(
            version, on_admitted=lambda e: self._tasks.pass_over(e["domain"], e["task"])
        )
        self.log = EventLog(
            folder, begin=state.begin, visit=state.read, lock=lock, segment_bytes=segment_bytes
        )
        try:
            self._reader = PayloadReader(folder, verify=self.log.num_before > 0)
            self.queue = SampleQueue(self._reader)
            self._task_file = PayloadFile(folder, "tasks.bin")
            self.num_writers = state.num_writers
            self.scheduler = Scheduler(config, version=version)
            # Before anything is written: it may find that the log has lost its end.
            recovered = (
                state.recover(hard_staleness=config.hard_staleness) if self.log.num_before else None
            )
            self.log.append(opened_event(config, torn_bytes=self.log.torn_bytes))
            if recovered is None:
                self.log.append({"kind": "published", "version": version})
            else:
                self._continue(recovered)
            self._tell_notes()
        except BaseException:
            self.log.close()
            raise

    # -- an earlier run ----------------------------------------------------------------------

    def _continue(self, recovered: Recovered) -> None:
        found = go_on(recovered, self._reader)
        self.log.append(*found.events)
        for text in found.notices:
            self.notice(text)
        for finished, payload in found.samples:
            self.queue.put(finished, payload)
        for group in found.groups:
            if group.finished:
                self._adopt(group)
            else:  # nothing of it is kept: it waits for room like a new one
                self._backlog.append(group)
        self.scheduler.skip_names(recovered.num_trajectories)
        self._num_groups = recovered.num_groups

    def _adopt(self, group: RecoveredGroup) -> None:
        admitted = group.admitted
        self.scheduler.adopt(
            admitted["group"], task=admitted["task"], domain=admitted["domain"],
            finished=group.finished, wanted=group.wanted,
        )  # fmt: skip
        if group.task is not None:
            self._task_of[admitted["group"]] = group.task

    # -- tasks and starts --------------------------------------------------------------------

    @property
    def is_drained(self) -> bool:
        """Whether no task is left, and nothing is being sampled or waits to be."""
        scheduler = self.scheduler
        return not (
            self._tasks.domains or self._backlog or scheduler.num_running or scheduler.is_wanting
        )

    def feed(self) -> None:
        """Admit groups and start trajectories, on the controller with the most room."""
        while (self._backlog or self._tasks.domains) and self.scheduler.can_admit():
            if self._backlog:
                self._adopt(self._backlog.popleft())
            else:
                self._admit()
        orders: list[tuple[Controller, Start]] = []
        while (controller := self.balancer.choose(self.controllers)) is not None:
            start = self.scheduler.start()
            if start is None:
                break
            controller.running.add(start.trajectory)
            self.clock.begin(start.trajectory)
            orders.append((controller, start))
        self.flush()
        for controller, start in orders:
            task = self._task_of[start.group]
            controller.post(StartRollout(
                start.trajectory, start.group, task.id, task.domain, start.version, task.payload,
                start.seed(self.seed),
            ))  # fmt: skip

    def _admit(self) -> None:
        domains = self._tasks.domains
        domain = self.scheduler.next_domain(domains) if len(domains) > 1 else domains[0]
        task = self._tasks.take(domain)
        self._tell_notes()
        if task is None:
            return
        name = f"g{self._num_groups:05d}"
        self._num_groups += 1
        self._task_of[name] = task
        data = encode_task(task)
        # What is no plain data is not kept: it comes again when the run is continued.
        fields = {} if data is None else {"payload": _fields_of(self._task_file.append([data]))}
        self.scheduler.admit(
            name, task=task.id, domain=task.domain, size=task.attempts, **fields
        )  # fmt: skip

    # -- reports -----------------------------------------------------------------------------

    def finished(self, controller: Controller, finished: Finished, payload: Payload) -> bool:
        """A trajectory is complete, and its bytes are in the log's folder.

        Return whether it is kept.
        """
        self._forget(controller, finished.id)
        if not self.scheduler.is_running(finished.id):
            return False  # it was discarded when this was on its way, or is told twice
        if finished.num_sampled == 0:
            self.scheduler.fail(finished.id, EndReason.NOTHING_SAMPLED)
            return False
        self.flush()
        self.num_truncated += finished.is_truncated
        self.num_splits += finished.num_splits
        fields = {"truncated": True} if finished.is_truncated else {}
        is_kept = self.scheduler.finish(
            finished.id, version=finished.version, versions=finished.versions,
            reward=finished.reward, tokens=finished.num_tokens, sampled=finished.num_sampled,
            domain=finished.domain, duration_s=round(finished.duration_s, 4), **fields,
        )  # fmt: skip
        if is_kept:
            self.queue.put(finished, payload)
        self.flush(payload)
        return is_kept

    def failed(self, controller: Controller, name: str, reason: str, detail: str) -> None:
        """A trajectory ended without a result."""
        self._forget(controller, name)
        if self.scheduler.is_running(name):
            self.scheduler.fail(name, EndReason(reason), detail=detail)

    def overdue(self, limit_s: float) -> dict[int, list[str]]:
        """Return the controllers, by place, that hold rollouts started longer ago than this."""
        late = self.clock.older_than(limit_s)
        if not late:
            return {}
        held = {place: sorted(c.running & late) for place, c in enumerate(self.controllers)}
        return {place: names for place, names in held.items() if names}

    def lost(self, controller: Controller, *, overdue: Collection[str] = ()) -> None:
        """A controller is gone: what it was sampling is tried again elsewhere.

        Args:
            controller: The one that is gone.
            overdue: What it did not end when its deadline had passed.
        """
        for name in sorted(controller.running):
            self.clock.end(name)
            if not self.scheduler.is_running(name):
                continue
            if name in overdue:
                self.scheduler.fail(
                    name, EndReason.DEADLINE, detail="its controller did not end it"
                )
            else:
                self.scheduler.fail(name, EndReason.CONTROLLER_LOST)
        controller.running.clear()
        self.flush()

    def notice(self, text: str) -> None:
        """Tell a person, and the log, of something that is no error."""
        _LOGGER.warning("%s", text)
        self.log.append({"kind": "noticed", "text": text})

    def _tell_notes(self) -> None:
        for text in self._tasks.notes:
            self.notice(text)
        self._tasks.notes.clear()

    def _forget(self, controller: Controller, name: str) -> None:
        controller.running.discard(name)
        self.clock.end(name)

    # -- batches -----------------------------------------------------------------------------

    def filter(self) -> None:
        """Judge groups that have just become complete.

        Those without a signal are evicted at once.
        """
        for group in self.scheduler.take_complete():
            names = self.scheduler.members(group)
            if self.on_group is not None:
                self.on_group(self.queue.read(names))
            self.judge(group, names)
        self.flush()

    def judge(self, group: str, names: list[str]) -> None:
        """Evict a complete group if its rewards are all the same, but where such are kept."""
        rewards = [finished.reward for finished in self.queue.look(names)]
        self._rewards += rewards
        if len(set(rewards)) < 2 and not self.scheduler.config.keep_equal_rewards:
            self.num_filtered += 1
            self.num_without_signal += 1
            self.scheduler.evict(group, EndReason.NO_SIGNAL)
        else:
            self.num_without_signal = 0

    def lease(self) -> list[Trajectory] | None:
        """Return the batch of the next step; `None` while the step has to wait."""
        lease = self.begin_lease()
        return None if lease is None else self.read(lease)

    def begin_lease(self) -> Lease | None:
        """Choose the batch of the next step, without reading it.

        `None` while the step has to wait.
        """
        groups = self.scheduler.lease(at_least=1 if self.is_drained else None)
        self._obey_bound()
        if groups is None:
            return None
        self.flush()
        config, version = self.scheduler.config, self.scheduler.version
        return Lease(
            self.scheduler.batch(), frozenset(self.scheduler.masked),
            version - config.hard_staleness if config.at_bound == "mask" else None, version + 1,
        )  # fmt: skip

    def read(self, lease: Lease, *, as_arrays: bool = False) -> list[Trajectory]:
        """Return the trajectories of a batch; from any thread.

        `as_arrays`: see `SampleQueue.read`.
        """
        return self.queue.read_batch(lease, as_arrays=as_arrays)

    def _obey_bound(self) -> None:
        """Tell controllers what the scheduler ended, or moved to another version, at the bound."""
        discarded, moved = self.scheduler.take_discarded(), self.scheduler.take_moved()
        if not discarded and not moved:
            return
        self.flush()
        holder = {name: c for c in self.controllers for name in c.running}
        for name in discarded:
            self.queue.drop([name])
            self.clock.end(name)
            if name in holder:
                holder[name].running.discard(name)
                holder[name].post(AbortRollout(name))
        for name, version in moved:
            if name in holder:
                holder[name].post(MoveRollout(name, version))

    def commit(self) -> int:
        """The batch was trained on; return the new version."""
        groups = self.scheduler.leased
        names = self.scheduler.batch()
        version = self.scheduler.commit()
        self.flush()
        for group in groups:
            self._task_of.pop(group, None)
        kept = set(self.scheduler.reusable)
        self.queue.drop({*names, *self._reusable} - kept)
        self._reusable = kept
        return version

    def take_rewards(self) -> list[float]:
        """Rewards of all groups that completed since the last call, with a signal or not."""
        rewards, self._rewards = self._rewards, []
        self.num_truncated = self.num_splits = 0
        return rewards

    # -- end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """Close what is open, and the log for good."""
        self.scheduler.end(EndReason.RUN_ENDED)
        self.flush()
        for group in self._backlog:  # nothing of them was finished: nothing is left to be told
            assert not group.finished
        self.log.append({"kind": "closed"})

    def close(self) -> None:
        """Close the files; the run can be continued."""
        self.log.close()
        self._reader.close()
        self._task_file.close()

    def flush(self, payload: Payload | None = None) -> None:
        """Write the scheduler's events; the first one owns the payload, if there is one."""
        events: list[Event] = self.scheduler.take_events()
        for event in events:
            if event["kind"] == "evicted":
                self._task_of.pop(event["group"], None)
                self.queue.drop(event["trajectories"])
        if payload is not None and events[0]["kind"] == "produced":
            events[0]["payload"] = _fields_of(payload)
        self.log.append(*events)

    def writer(self) -> str:
        """Return the name of a payload file that nobody has written to."""
        name = f"payloads-{self.num_writers:03d}.bin"
        self.num_writers += 1
        self.log.append({"kind": "writer", "file": name})
        return name

    # -- diagnosis ---------------------------------------------------------------------------

    def explain(self) -> str:
        """Say in one line what the next step waits for."""
        return self.clock.explain(self.scheduler, self.controllers)

    def age_of_oldest_s(self) -> float:
        """Seconds since the oldest running trajectory was started."""
        return self.clock.age_of_oldest_s()

    def domains(self, batch: Sequence[Trajectory]) -> dict[str, int]:
        """Domain to trajectories of a batch."""
        return dict(Counter(trajectory.domain for trajectory in batch))


def _fields_of(payload: Payload) -> PayloadFields:
    return [payload.file, payload.offset, payload.length, payload.crc]
