"""The rollout manager: what a run knows of its trajectories, without their tokens.

    tasks ──> admit ──> start ──> a controller ──> finished ──> queue ──> lease ──> commit

Takes: messages of controllers. Gives: orders to them, batches to whoever trains. Keeps: the scheduler, the
log and the queue in step: whatever happens is in the log before it is acted upon. It waits for nothing and
starts nothing; the runtimes do.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from longcat_dora._log.log import EVENTS, EventLog, read_events
from longcat_dora._log.payloads import PayloadFile, PayloadReader
from longcat_dora._types import EndReason, Finished, Payload, Task, Trajectory

from .balance import LoadBalancer
from .queue import SampleQueue
from .recover import RecoveredGroup, recover
from .scheduler import Scheduler, SchedulerConfig, Start

Tasks = Iterator[Task] | Mapping[str, Iterator[Task]]


class Controller(Protocol):
    """A rollout controller as the manager sees it."""

    running: set[str]
    """Trajectories that it is sampling."""
    is_ready: bool

    def post(self, *order: Any) -> None:
        """Send an order after all earlier ones; never blocks."""
        ...


class RolloutManager:
    """One run's books.

    Args:
        folder: Of the log; a log that is there is continued.
        config: Sizes and bounds.
        tasks: What to try, in order; or by domain, of which the one furthest behind its quota goes first.
            When a run is continued, as many are passed over as were admitted before.
        version: That the trainer stands at.
        seed: Of what is sampled, by engines that take one.
        on_group: Called with each complete group, before it is filtered or queued.
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
    ) -> None:
        self.on_group, self.seed = on_group, seed
        self._tasks: dict[str, Iterator[Task]] = (
            dict(tasks) if isinstance(tasks, Mapping) else {"": tasks}
        )
        self.controllers: list[Controller] = []
        self.balancer = LoadBalancer()
        self._task_of: dict[str, Task] = {}
        """Of groups that want attempts still."""
        self._started_at: dict[str, float] = {}
        self._rewards: list[float] = []
        self._backlog: collections.deque[RecoveredGroup] = collections.deque()
        """Groups of an earlier run of which nothing is kept."""
        self._reusable: set[str] = set()
        self._num_groups = self.num_filtered = 0
        before = list(read_events(folder)) if (folder / EVENTS).is_file() else []
        self.log, self._reader = EventLog(folder), PayloadReader(folder, verify=bool(before))
        self.queue, self._task_file = SampleQueue(self._reader), PayloadFile(folder, "tasks.bin")
        self.num_writers = sum(event["kind"] == "writer" for event in before)
        self.scheduler = Scheduler(config, version=version)
        self.log.append({
            "kind": "opened",
            "hard_staleness": config.hard_staleness,
            "soft_staleness": config.soft_staleness,
            "group_size": config.group_size,
            "at_bound": config.at_bound,
            "max_running": config.max_running,
            "wall": time.time(),
        })  # fmt: skip
        if before:
            self._continue(before, version)
        else:
            self.log.append({"kind": "published", "version": version})

    def _continue(self, before: list[dict[str, Any]], version: int) -> None:
        recovered = recover(before, version, hard_staleness=self.scheduler.config.hard_staleness)
        self.log.append(*recovered.events)
        for event in recovered.produced:
            self.queue.put(
                Finished(
                    event["trajectory"], event["version"], event["versions"], event["domain"],
                    event["reward"], event["tokens"], event["sampled"], event["duration_s"],
                ),
                Payload(*event["payload"]),
            )  # fmt: skip
        for group in recovered.groups:
            if group.finished:
                self._adopt(group)
            else:  # nothing of it is kept: it waits for room like a new one
                self._backlog.append(group)
        self.scheduler.skip_names(recovered.num_trajectories)
        self._num_groups = recovered.num_groups
        self._skip(Counter(e["domain"] for e in before if e["kind"] == "admitted"))

    def _adopt(self, group: RecoveredGroup) -> None:
        admitted = group.admitted
        self.scheduler.adopt(
            admitted["group"], task=admitted["task"], domain=admitted["domain"],
            finished=group.finished, wanted=group.wanted,
        )  # fmt: skip
        if group.wanted:
            data = self._reader.read(Payload(*admitted["payload"]))
            self._task_of[admitted["group"]] = pickle.loads(data)

    def _skip(self, admitted: Counter[str]) -> None:
        """Pass over the tasks that were admitted before: they are done, or in the log."""
        for domain, tasks in self._tasks.items():
            num = admitted[domain] if domain else sum(admitted.values())
            collections.deque(itertools.islice(tasks, num), maxlen=0)

    # -- tasks and starts --------------------------------------------------------------------

    @property
    def is_drained(self) -> bool:
        """Whether no task is left, and nothing is being sampled."""
        return not (self._tasks or self._backlog or self.scheduler.num_running)

    def feed(self) -> None:
        """Admit groups and start trajectories, on the controller with the most room."""
        while (self._backlog or self._tasks) and self.scheduler.can_admit():
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
            self._started_at[start.trajectory] = time.monotonic()
            orders.append((controller, start))
        self.flush()
        for controller, start in orders:
            task = self._task_of[start.group]
            controller.post(
                "start", start.trajectory, start.group, task.id, task.domain, start.version,
                task.payload, start.seed(self.seed),
            )  # fmt: skip

    def _admit(self) -> None:
        domain = self.scheduler.next_domain(self._tasks) if len(self._tasks) > 1 else None
        domain = next(iter(self._tasks)) if domain is None else domain
        task = next(self._tasks[domain], None)
        if task is None:
            del self._tasks[domain]
            return
        name = f"g{self._num_groups:05d}"
        self._num_groups += 1
        self._task_of[name] = task
        payload = self._task_file.append([pickle.dumps(task)])
        self.scheduler.admit(
            name, task=task.id, domain=task.domain, payload=dataclasses.astuple(payload)
        )

    # -- messages ----------------------------------------------------------------------------

    def finished(self, controller: Controller, finished: Finished, payload: Payload) -> None:
        """A trajectory is complete, and its tokens are in the log's folder."""
        self._is_over(controller, finished.id)
        if not self.scheduler.is_running(finished.id):
            return  # it was discarded when this was on its way, or is told twice
        if finished.num_sampled == 0:
            self.scheduler.fail(finished.id, EndReason.NOTHING_SAMPLED)
            return
        self.flush()
        is_kept = self.scheduler.finish(
            finished.id, version=finished.version, versions=finished.versions,
            reward=finished.reward, tokens=finished.num_tokens, sampled=finished.num_sampled,
            domain=finished.domain, duration_s=round(finished.duration_s, 4),
        )  # fmt: skip
        if is_kept:
            self.queue.put(finished, payload)
        self.flush(payload)

    def failed(self, controller: Controller, name: str, reason: str, detail: str) -> None:
        """A trajectory ended without a result."""
        self._is_over(controller, name)
        if self.scheduler.is_running(name):
            self.scheduler.fail(name, EndReason(reason), detail=detail)

    def lost(self, controller: Controller) -> None:
        """A controller is gone: what it was sampling is tried again elsewhere."""
        for name in sorted(controller.running):
            self._started_at.pop(name, None)
            if self.scheduler.is_running(name):
                self.scheduler.fail(name, EndReason.CONTROLLER_LOST)
        controller.running.clear()
        self.flush()

    def _is_over(self, controller: Controller, name: str) -> None:
        controller.running.discard(name)
        self._started_at.pop(name, None)

    # -- batches -----------------------------------------------------------------------------

    def filter(self) -> None:
        """Judge groups that have just become complete; those without a signal are evicted at once."""
        for group in self.scheduler.take_complete():
            names = self.scheduler.members(group)
            if self.on_group is not None:
                self.on_group(self.queue.read(names))
            rewards = [finished.reward for finished in self.queue.look(names)]
            self._rewards += rewards
            if len(set(rewards)) < 2:
                self.num_filtered += 1
                self.scheduler.evict(group, EndReason.NO_SIGNAL)
        self.flush()

    def lease(self) -> list[Trajectory] | None:
        """Return the batch of the next step; `None` while the step has to wait."""
        groups = self.scheduler.lease(at_least=1 if self.is_drained else None)
        self._obey_bound()
        if groups is None:
            return None
        self.flush()
        batch, masked = self.queue.read(self.scheduler.batch()), self.scheduler.masked
        if self.scheduler.config.at_bound != "mask":
            return batch
        oldest = self.scheduler.version - self.scheduler.config.hard_staleness
        newest = self.scheduler.version + 1
        return [t.masked_before(newest if t.id in masked else oldest) for t in batch]

    def _obey_bound(self) -> None:
        """Tell controllers what the scheduler ended, or moved to another version, at the bound."""
        discarded, moved = self.scheduler.take_discarded(), self.scheduler.take_moved()
        if not discarded and not moved:
            return
        self.flush()
        place = {name: controller for controller in self.controllers for name in controller.running}
        for name in discarded:
            self.queue.drop([name])
            self._started_at.pop(name, None)
            if name in place:
                place[name].running.discard(name)
                place[name].post("abort", name)
        for name, version in moved:
            if name in place:
                place[name].post("move", name, version)

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
        return rewards

    # -- end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """Close what is open, and the log for good."""
        self.scheduler.end(EndReason.RUN_ENDED)
        self.flush()
        self.log.append({"kind": "closed"})

    def close(self) -> None:
        """Close the files; the run can be continued."""
        self.log.close()
        self._reader.close()
        self._task_file.close()

    def flush(self, payload: Payload | None = None) -> None:
        """Write the scheduler's events; the first one owns the payload, if there is one."""
        events = self.scheduler.take_events()
        for event in events:
            if event["kind"] == "evicted":
                self._task_of.pop(event["group"], None)
                self.queue.drop(event["trajectories"])
        if payload is not None and events[0]["kind"] == "produced":
            events[0]["payload"] = dataclasses.astuple(payload)
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
        now, running = time.monotonic(), self._started_at
        blocked = self.scheduler.blocked_by()
        if blocked:
            shown = ", ".join(f"{name} ({self._whose(name, now)})" for name in blocked[:3])
            more = f" and {len(blocked) - 3} more" if len(blocked) > 3 else ""
            return f"the trainer waits for {shown}{more} to keep the hard bound"
        if running:
            oldest = min(running, key=lambda name: running[name])
            return (
                f"the trainer waits for {len(running)} rollouts, the oldest is {oldest} "
                f"({self._whose(oldest, now)})"
            )
        if not any(controller.is_ready for controller in self.controllers):
            return "no controller is ready yet"
        return "nothing is running"

    def _whose(self, name: str, now: float) -> str:
        place = next((i for i, c in enumerate(self.controllers) if name in c.running), None)
        return f"controller {place}, {now - self._started_at.get(name, now):.0f} s"

    def age_of_oldest_s(self) -> float:
        """Seconds since the oldest running trajectory was started."""
        return time.monotonic() - min(self._started_at.values(), default=time.monotonic())

    def domains(self, batch: Sequence[Trajectory]) -> dict[str, int]:
        """Domain to trajectories of a batch."""
        return dict(Counter(trajectory.domain for trajectory in batch))
