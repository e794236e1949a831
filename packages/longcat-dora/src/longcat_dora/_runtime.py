"""The local runtime: real processes on one machine around the scheduler.

    tasks ──> RolloutManager ──(pipes)──> RolloutController x n   each: engine + environments
                 │   ▲                          │
                 │   └──── finished, at once ───┘
                 ▼
             SampleQueue ──> Trainer (a thread) ──> weights n + 1 ──> every controller

- The manager loop never blocks: it waits for pipes and for the trainer's thread together.
- Whatever happens is in the event log before it is acted upon; a run continues from its folder.
- A controller that dies is replaced, and what it was sampling is tried again.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ._controller import Factory, controller_main
from ._log import EventLog, read_events
from ._recover import recover
from ._scheduler import Scheduler, SchedulerConfig
from ._types import EndReason, LongcatDoraError, Task, Trainer, Trajectory
from ._why import write_status


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run."""

    folder: Path
    max_steps: int
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    num_controllers: int = 1
    save_every: int = 10
    """Steps between checkpoints; a crash repeats the steps since the last one."""
    rollout_deadline_s: float = 120.0
    stall_deadline_s: float = 300.0
    """Without any progress for this long, the run ends and says who waited for what."""
    max_controller_restarts: int = 10
    max_seconds: float = float("inf")
    """Stop after the step that passes this."""


@dataclass(frozen=True, slots=True)
class Progress:
    """After each step."""

    step: int
    metrics: dict[str, Any]
    batch: list[Trajectory]


class _Handle:
    """A controller seen from the manager; orders leave through a thread, so none can block it."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.running: set[str] = set()
        self.is_ready = False
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def post(self, *order: Any) -> None:
        """Send an order after all earlier ones."""
        self._outbox.put(order)

    def _send(self) -> None:
        while (order := self._outbox.get()) is not None:
            try:
                self.connection.send(order)
            except OSError:
                return  # the reader finds the closed pipe and takes care of what was running

    def close(self) -> None:
        """Wait for the process (killed if it does not end by itself) and close the pipe."""
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._outbox.put(None)
        self._sender.join()
        self.connection.close()


class LocalRuntime:
    """Runs controllers, queue and trainer side by side until `max_steps`, or until `tasks` end.

    Args:
        config: The run; its folder holds the log, the checkpoints and `metrics.jsonl`.
        factory: Builds a `Worker` inside each controller process; must be importable there.
        trainer: Learns in a thread of this process.
        tasks: What to try, in order; asked for one more whenever there is room.
        on_step: Called after each step.
        on_group: Called with each complete group, before it is filtered or queued.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        factory: Factory,
        trainer: Trainer,
        tasks: Iterator[Task],
        on_step: Callable[[Progress], None] | None = None,
        on_group: Callable[[list[Trajectory]], None] | None = None,
    ) -> None:
        self.config, self.factory, self.trainer, self.tasks = config, factory, trainer, tasks
        self.on_step, self.on_group = on_step, on_group
        self.scheduler = Scheduler(config.scheduler)
        self._log: EventLog
        self._handles: list[_Handle] = []
        self._payloads: dict[str, Task] = {}
        self._queue: dict[str, Trajectory] = {}
        self._judged: set[str] = set()
        self._is_exhausted = False
        self._num_groups = self._num_restarts = self._num_filtered = 0
        self._weights = b""
        self._trained = 0
        self._idle_s = 0.0
        self._loads: deque[float] = deque(maxlen=10_000)
        self._rewards: list[float] = []
        """Of all groups that completed since the last step, with a signal or not."""
        self._wake = asyncio.Event()
        self._progress_at = 0.0
        self._training_at: float | None = None
        self._started_at: dict[str, float] = {}
        self._status: tuple[str, float] = ("", 0.0)
        """What is waited for, and since when."""
        self._status_at = 0.0

    def run(self) -> int:
        """Run to the end; return the last version. Continues the folder's run if there is one.

        Raises:
            LongcatDoraError: No progress, or controllers keep dying.
            KeyboardInterrupt: After a checkpoint was written and the log closed cleanly.
        """
        return asyncio.run(self._run())

    # -- life --------------------------------------------------------------------------------

    async def _run(self) -> int:
        self._open()
        self._weights = self.trainer.weights()
        self._progress_at = time.monotonic()
        try:
            for place in range(self.config.num_controllers):
                self._handles.append(self._spawn(place))
            await self._loop()
            self.scheduler.end(EndReason.RUN_ENDED)
            self._flush()
            self._log.append({"kind": "closed"})
            self._save()
            self._tell(is_over=True)
        except (KeyboardInterrupt, asyncio.CancelledError):
            self._save()
            raise
        finally:
            self._stop()
        return self.scheduler.version

    def _open(self) -> None:
        folder = self.config.folder
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        before = list(read_events(log)) if log.is_dir() else []
        self._log = EventLog(log)
        version = self._restore() if before else 0
        bounds = self.config.scheduler
        self._log.append({
            "kind": "opened",
            "hard_staleness": bounds.hard_staleness,
            "soft_staleness": bounds.soft_staleness,
            "group_size": bounds.group_size,
        })  # fmt: skip
        if before:
            self.scheduler = Scheduler(bounds, version=version)
            recovered = recover(before, version)
            for event in recovered.events:
                self._log.append(event)
            for group in recovered.groups:
                self.scheduler.adopt(
                    group.id, task=group.task, domain=group.domain, finished=group.finished
                )
            for event in recovered.produced:
                trajectory = Trajectory.from_bytes(self._log.read_payload(event))
                self._queue[trajectory.id] = trajectory
            self.scheduler.skip_names(recovered.num_trajectories)
            self._num_groups = recovered.num_groups
        else:
            self._log.append({"kind": "published", "version": 0})

    def _restore(self) -> int:
        """Return the trainer to its newest checkpoint, and the version it stands for."""
        folders = sorted((self.config.folder / "checkpoints").glob("step-*"))
        if not folders:
            return 0
        self.trainer.restore(folders[-1])
        return int(folders[-1].name.removeprefix("step-"))

    def _save(self) -> None:
        version = self.scheduler.version
        folder = self.config.folder / "checkpoints"
        final = folder / f"step-{version:06d}"
        if final.exists():
            return
        part = folder / f".part-{version:06d}"
        self.trainer.save(part)
        part.rename(final)
        for old in sorted(folder.glob("step-*"))[:-2]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()

    def _stop(self) -> None:
        for handle in self._handles:
            handle.post("stop")
        for handle in self._handles:
            handle.close()
        self._flush()
        self._log.close()

    # -- controllers -------------------------------------------------------------------------

    def _spawn(self, place: int) -> _Handle:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=controller_main,
            args=(theirs, self.factory, self.config.rollout_deadline_s),
            name=f"controller-{place}",
            daemon=True,
        )
        process.start()
        theirs.close()
        handle = _Handle(process, ours)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._receive, handle)
        return handle

    def _receive(self, handle: _Handle) -> None:
        """Take everything a controller has sent."""
        try:
            while handle.connection.poll():
                self._handle(handle, *handle.connection.recv())
        except (EOFError, OSError):
            self._lost(handle)
        self._wake.set()

    def _handle(self, handle: _Handle, kind: str, *arguments: Any) -> None:
        self._progress_at = time.monotonic()
        if kind == "ready":
            handle.post("weights", self.scheduler.version, self._weights)
            handle.is_ready = True
        elif kind == "finished":
            self._finished(handle, *arguments)
        elif kind == "failed":
            name, reason, detail = arguments
            handle.running.discard(name)
            self._started_at.pop(name, None)
            if self.scheduler.is_running(name):
                self.scheduler.fail(name, EndReason(reason), detail=detail)
        elif kind == "broken":
            raise LongcatDoraError(f"a controller could not be built:\n{arguments[0]}")

    def _finished(self, handle: _Handle, trajectory: Trajectory) -> None:
        handle.running.discard(trajectory.id)
        self._started_at.pop(trajectory.id, None)
        if not self.scheduler.is_running(trajectory.id):
            return  # it was discarded when this was on its way
        if trajectory.num_sampled == 0:
            self.scheduler.fail(trajectory.id, EndReason.NOTHING_SAMPLED)
            return
        self.scheduler.finish(
            trajectory.id, reward=trajectory.reward, tokens=trajectory.num_tokens,
            versions=[trajectory.version], domain=trajectory.domain,
        )  # fmt: skip
        self._flush(payload=trajectory.to_bytes())
        self._queue[trajectory.id] = trajectory

    def _lost(self, handle: _Handle) -> None:
        """A controller died: what it was sampling ends, and another process takes its place."""
        asyncio.get_running_loop().remove_reader(handle.connection.fileno())
        handle.close()
        for name in handle.running:
            self.scheduler.fail(name, EndReason.CONTROLLER_LOST)
        place = self._handles.index(handle)
        self._num_restarts += 1
        if self._num_restarts > self.config.max_controller_restarts:
            raise LongcatDoraError(
                f"controller {place} died (exit code {handle.process.exitcode}), and "
                f"max_controller_restarts={self.config.max_controller_restarts} are used up"
            )
        self._handles[place] = self._spawn(place)

    # -- the manager loop --------------------------------------------------------------------

    async def _loop(self) -> None:
        """Takes: messages, the trainer's results. Waits for: either. Stops: after `max_steps`."""
        started = time.monotonic()
        training: asyncio.Task[Any] | None = None
        leased: list[Trajectory] = []
        waited_from = started
        loop = asyncio.get_running_loop()
        failure: list[BaseException] = []
        loop.set_exception_handler(lambda _, context: self._crash(failure, context))
        while True:
            if failure:
                raise failure[0]
            self._feed()
            self._filter()
            if training is not None and training.done():
                waited_from = time.monotonic()
                await self._advance(training.result(), leased, waited_from - started)
                training = None
                over = time.monotonic() - started > self.config.max_seconds
                if self.scheduler.version >= self.config.max_steps or over:
                    return
                continue
            if training is None:
                is_drained = self._is_exhausted and not self.scheduler.num_running
                groups = self.scheduler.lease(at_least=1 if is_drained else None)
                self._drop_discarded()
                if groups is None and is_drained:
                    return  # the last task was tried and trained on
                if groups is not None:
                    names = [name for group in groups for name in self.scheduler.members(group)]
                    leased = [self._queue[name] for name in names]
                    self._flush()
                    self._idle_s += time.monotonic() - waited_from
                    training = asyncio.create_task(asyncio.to_thread(self.trainer.train, leased))
                    training.add_done_callback(lambda _: self._wake.set())
            self._flush()
            self._training_at = None if training is None else self._training_at or time.monotonic()
            self._tell()
            await self._sleep(training is not None)

    def _drop_discarded(self) -> None:
        """Stop what the scheduler ended at the bound."""
        for name in self.scheduler.take_discarded():
            self._queue.pop(name, None)
            self._started_at.pop(name, None)
            for handle in self._handles:
                if name in handle.running:
                    handle.running.discard(name)
                    handle.post("abort", name)

    def _crash(self, failure: list[BaseException], context: dict[str, Any]) -> None:
        failure.append(context.get("exception") or LongcatDoraError(context["message"]))
        self._wake.set()

    async def _sleep(self, is_training: bool) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(1.0):
                await self._wake.wait()
        except TimeoutError:
            pass
        silent = time.monotonic() - self._progress_at
        if not is_training and silent > self.config.stall_deadline_s:
            raise LongcatDoraError(f"no progress for {silent:.0f} s: {self.explain()}")

    def explain(self) -> str:
        """Say in one line who waits for what."""
        now, running = time.monotonic(), self.scheduler.running
        if self._training_at is not None:
            return f"training; {len(running)} rollouts run meanwhile"
        blocked = self.scheduler.blocked_by()
        if blocked:
            shown = ", ".join(f"{name} ({self._whose(name, now)})" for name in blocked[:3])
            more = f" and {len(blocked) - 3} more" if len(blocked) > 3 else ""
            return f"the trainer waits for {shown}{more} to keep the hard bound"
        if running:
            oldest = min(running, key=lambda name: self._started_at.get(name, now))
            return (
                f"the trainer waits for {len(running)} rollouts, the oldest is {oldest} "
                f"({self._whose(oldest, now)})"
            )
        if not any(handle.is_ready for handle in self._handles):
            return "no controller is ready yet"
        return "nothing is running"

    def _whose(self, name: str, now: float) -> str:
        place = next((i for i, h in enumerate(self._handles) if name in h.running), None)
        return f"controller {place}, {now - self._started_at.get(name, now):.0f} s"

    def _tell(self, *, is_over: bool = False) -> None:
        """Write down who waits for what, twice a second at most."""
        now = time.monotonic()
        if now - self._status_at < 0.5 and not is_over:
            return
        phase = "training" if self._training_at is not None else "waiting"
        if phase != self._status[0]:
            self._status = (phase, now)
        self._status_at = now
        write_status(
            self.config.folder, version=self.scheduler.version, why=self.explain(),
            for_s=round(now - self._status[1], 1), is_over=is_over,
        )  # fmt: skip

    def _feed(self) -> None:
        """Admit groups and start trajectories, on the controller with the fewest."""
        scheduler = self.scheduler
        while scheduler.can_admit():
            task = next(self.tasks, None)
            if task is None:
                self._is_exhausted = True
                break
            name = f"g{self._num_groups:05d}"
            self._num_groups += 1
            self._payloads[name] = task
            scheduler.admit(name, task=task.id, domain=task.domain)
        ready = [handle for handle in self._handles if handle.is_ready]
        while ready and (start := scheduler.start()) is not None:
            handle = min(ready, key=lambda h: len(h.running))
            handle.running.add(start.trajectory)
            self._started_at[start.trajectory] = time.monotonic()
            task = self._payloads[start.group]
            handle.post(
                "start", start.trajectory, start.group, task.id, task.domain, start.version,
                task.payload,
            )  # fmt: skip
        self._loads.append(scheduler.num_running / scheduler.config.max_running)

    def _filter(self) -> None:
        """Judge groups that have just completed; those without a signal are evicted at once."""
        for group in self.scheduler.complete_groups():
            if group in self._judged:
                continue
            self._judged.add(group)
            self._payloads.pop(group, None)
            members = [self._queue[name] for name in self.scheduler.members(group)]
            if self.on_group is not None:
                self.on_group(members)
            self._rewards += [trajectory.reward for trajectory in members]
            if len({trajectory.reward for trajectory in members}) < 2:
                self._num_filtered += 1
                self.scheduler.evict(group, EndReason.NO_SIGNAL)
                for trajectory in members:
                    del self._queue[trajectory.id]

    async def _advance(
        self, metrics: dict[str, float], batch: list[Trajectory], elapsed_s: float
    ) -> None:
        """Commit, publish the new weights everywhere, retire the old, report."""
        at = self.scheduler.version
        staleness = Counter(at - trajectory.version for trajectory in batch)
        weights = await asyncio.to_thread(self.trainer.weights)
        version, self._weights = self.scheduler.commit(), weights
        for trajectory in batch:
            del self._queue[trajectory.id]
        self._trained += len(batch)
        for handle in self._handles:
            if handle.is_ready:
                handle.post("weights", version, weights)
                handle.post("retire", at)
        self._flush()
        if version % self.config.save_every == 0:
            self._save()
        record: dict[str, Any] = {
            "step": version,
            "elapsed_s": round(elapsed_s, 3),
            **metrics,
            "trajectories": self._trained,
            "trajectories_per_s": self._trained / elapsed_s,
            "staleness": dict(sorted(staleness.items())),
            "live_versions": len(self.scheduler.live_versions),
            "sampled_reward": sum(self._rewards) / max(len(self._rewards), 1),
            "load_ratio": sum(self._loads) / max(len(self._loads), 1),
            "trainer_idle_share": self._idle_s / elapsed_s,
            "filtered_groups": self._num_filtered,
            "controller_restarts": self._num_restarts,
            "domains": dict(Counter(trajectory.domain for trajectory in batch)),
        }
        self._loads.clear()
        self._rewards.clear()
        with (self.config.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._progress_at = time.monotonic()
        if self.on_step is not None:
            self.on_step(Progress(version, record, batch))

    def _flush(self, payload: bytes | None = None) -> None:
        """Write the scheduler's events; a payload belongs to the last one."""
        events = self.scheduler.take_events()
        for place, event in enumerate(events):
            self._log.append(event, payload if place == len(events) - 1 else None)
