"""What every runtime does: a manager, a trainer in a thread, and controllers somewhere.

    tasks ──> RolloutManager ──(orders)──> RolloutController x n   each: engine + environments
                 │   ▲                          │
                 │   └──── finished, at once ───┘
                 ▼
             SampleQueue ──> a step (a task of its own, the trainer in a thread) ──> weights n + 1
             ──> every controller

- The loop never blocks: reading batches, training, digests, copies, saving and syncing happen in
  threads, and rollouts are started and heard meanwhile.
- Whatever happens is in the event log before it is acted upon; a run continues from its folder.
- A controller that dies, or keeps no deadline, is replaced, and what it was sampling is tried
  again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from longcat_dora._books.manager import RolloutManager
from longcat_dora._books.queue import Lease
from longcat_dora._books.tasks import Tasks
from longcat_dora._log.lock import FolderLock
from longcat_dora._log.tensors import (
    CopiedWeights,
    Digest,
    Shard,
    digest_of,
    digested,
    is_plain,
    shards_of,
)
from longcat_dora._rollout.controller import Factory
from longcat_dora._rollout.messages import (
    Controller,
    Report,
    Stop,
)
from longcat_dora._types import LongcatDoraError, Trainer, Trajectory

from .checkpoints import Checkpoints
from .child import refuse_in_controller
from .config import RunConfig
from .crew import Crew
from .evaluate import Evaluate, Evaluations
from .failures import notice_no_signal, refuse_no_signal
from .lifecycle import error_of, explained, run_coroutine, signals_cancel
from .status import Metrics, Progress, Status
from .trainer_thread import TrainerThread

_LOOK_S = 0.5
"""Between two looks at clocks, if nothing else happens."""


class Runtime(ABC):
    """Runs controllers, queue and trainer side by side until `max_steps`, or until `tasks` end.

    Args:
        config: The run; its folder holds the log, the checkpoints and `metrics.jsonl`.
        factory: Builds a `Worker` where a controller runs.
        trainer: Learns in a thread of this process; or a function that makes it there, while the
            controllers build their engines.
        tasks: What to try, in order; asked for one more whenever there is room. By domain, it is a
            dictionary of such. To continue a run, pass the same again: what was admitted before is
            passed over.
        on_step: Called after each step.
        on_group: Called with each complete group, before it is filtered or queued. Both are called
            by the loop, one after another: what takes long belongs into `evaluate`.
        evaluate: Called with a version and its weights, in a thread of its own: see
            `evaluate_every`.
        on_stop: Called where the run is stopped in a step, which is finished first.

    Raises:
        TypeError: The trainer lacks a method, or tasks are none.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        factory: Factory,
        trainer: Trainer | Callable[[], Trainer],
        tasks: Tasks,
        on_step: Callable[[Progress], None] | None = None,
        on_group: Callable[[list[Trajectory]], None] | None = None,
        evaluate: Evaluate | None = None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        if not isinstance(config, RunConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"config must be a RunConfig, got {config!r:.80}")
        if not callable(factory):
            raise TypeError(
                f"factory must build a Worker when called, got {type(factory).__name__}"
            )
        self.config, self.factory, self.tasks = config, factory, tasks
        self.on_step, self.on_group, self.on_stop = on_step, on_group, on_stop
        self.manager: RolloutManager
        self._crew = Crew(config, self.spawn)
        self.is_over = False
        """Whether controllers are being stopped; what they say is not heard any more."""
        self._teacher = TrainerThread(trainer)
        self._checkpoints = Checkpoints(config.path, num_kept=config.keep_checkpoints)
        self._evaluations = Evaluations(config, evaluate)
        self._status, self._metrics = Status(config.path), Metrics(config.path)
        self._wake = asyncio.Event()
        self._progress_at = 0.0
        self._step: asyncio.Task[None] | None = None
        self._is_training = False
        self._failure: BaseException | None = None
        self._first = 0
        """Version that this process began with."""
        self._stopped_by = ""
        """A signal, if one ended the run."""

    @property
    def trainer(self) -> Trainer:
        """Who learns; if a function makes it, from the time that it is made."""
        return self._teacher.trainer

    @property
    def handles(self) -> list[Controller]:
        """Controllers by place."""
        return self._crew.handles

    @property
    def num_restarts(self) -> int:
        """Controllers that were replaced."""
        return self._crew.num_restarts

    def run(self) -> int:
        """Run to the end; return the last version. Continues the folder's run if there is one.

        Raises:
            LongcatDoraError: The run cannot go on; the message says why.
            KeyboardInterrupt: At Ctrl-C, SIGTERM or SIGHUP, after a checkpoint was written and the
                log closed.
        """
        refuse_in_controller()
        version = run_coroutine(self._run)
        if self._stopped_by:
            raise KeyboardInterrupt(self._stopped_by)
        return version

    # -- what a runtime decides --------------------------------------------------------------

    def begun_ahead(self) -> contextlib.AbstractContextManager[None]:
        """Start what needs no trainer, and end what of it nobody took."""
        return contextlib.nullcontext()

    @abstractmethod
    def spawn(self, place: int) -> Controller:
        """Start a controller; its reports go to `receive`, its death to `lost`."""

    @abstractmethod
    async def join(self, handle: Any) -> None:
        """Listen to a controller no more, and wait until it has ended."""

    def share(self, weights: bytes | memoryview) -> Any:
        """Turn weights into what orders carry; called in a thread."""
        return weights

    def share_arrays(self, shards: Iterator[Shard]) -> Any:
        """Likewise, of weights that come as arrays, one by one."""
        return CopiedWeights.of(shards)

    # -- life --------------------------------------------------------------------------------

    async def _run(self) -> int:
        try:
            with signals_cancel(self._note_signal), self.begun_ahead():
                return await self._live()
        except OSError as error:
            raise explained(error, self.config) from error
        finally:
            self._teacher.close()

    def _note_signal(self, name: str) -> None:
        self._stopped_by = name

    async def _live(self) -> int:
        log = self.config.path / "log"
        log.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(log)
        try:
            restore, trainer = self._checkpoints.restore, await self._teacher.made()
            version, problems = await self._teacher.call(restore, trainer)
            self.manager = RolloutManager(
                log, self.config.scheduler, tasks=self.tasks, version=version,
                seed=self.config.seed, on_group=self.on_group, lock=lock,
                segment_bytes=self.config.segment_bytes, tasks_go_on=self.config.tasks_go_on,
            )  # fmt: skip
        except BaseException:
            lock.close()
            raise
        for problem in problems:
            self.manager.notice(problem)
        self._progress_at, self._first = time.monotonic(), version
        try:
            await self._live_with_manager(version)
        finally:
            await self._stop()
        return self.manager.scheduler.version

    async def _live_with_manager(self, version: int) -> None:
        try:
            self._publish(*await self._teacher.weights(self._prepare, step=version))
            self._crew.begin(self.manager)
            await self._loop()
            await self._save()
            await self._evaluations.end(self.manager.scheduler.version, self._teacher)
            self._end()
        except (KeyboardInterrupt, asyncio.CancelledError):
            if self._step is not None:  # a step that was begun is finished, and counts
                if self.on_stop is not None and not self._step.done():
                    self.on_stop()
                await self._step
            await self._save()
            if not self._stopped_by:
                raise

    def _end(self) -> None:
        """Close the books of a run that has done what it was to do."""
        manager = self.manager
        took_none = manager.scheduler.version == self._first
        notice_no_signal(manager, self.config, took_none=took_none)
        manager.end()
        manager.log.sync()
        self._tell(is_over=True)

    async def _save(self) -> None:
        version = self.manager.scheduler.version
        if await self._teacher.call(self._checkpoints.save, self.trainer, version):
            kept = self._checkpoints.versions
            self.manager.log.append({"kind": "saved", "version": version, "kept": kept})

    async def _stop(self) -> None:
        self.is_over = True
        self._evaluations.close()
        if self._step is not None and not self._step.done():
            self._step.cancel()
            await asyncio.wait([self._step])
        for handle in self.handles:
            handle.post(Stop())
        await asyncio.gather(*(self.join(handle) for handle in self.handles))
        self.manager.close()

    # -- controllers -------------------------------------------------------------------------

    def receive(self, handle: Controller, report: Report) -> None:
        """Take a report of a controller."""
        if self.is_over:
            return
        self._progress_at = time.monotonic()
        self._crew.receive(handle, report)

    def wake(self) -> None:
        """Let the loop look again."""
        self._wake.set()

    def crash(self, error: BaseException) -> None:
        """End the run with an error that came up outside the loop."""
        self._failure = self._failure or error
        self._wake.set()

    def lost(self, handle: Controller, how: str) -> None:
        """A controller died: what it was sampling ends, and another one takes its place."""
        if not self.is_over and handle in self.handles:
            self._crew.lost(handle, how)

    # -- the loop ----------------------------------------------------------------------------

    async def _loop(self) -> None:
        """Takes: reports, the step's end. Waits for: either.

        Stops: after `max_steps`, or when tasks end.
        """
        manager = self.manager
        self._metrics.begin()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.crash(error_of(context)))
        while True:
            if self._failure is not None:
                raise self._failure
            if self._step is not None and self._step.done():
                step, self._step = self._step, None
                step.result()
                if time.monotonic() - self._metrics.started_at > self.config.max_seconds:
                    return
            if self._step is None and manager.scheduler.version >= self.config.max_steps:
                return
            await self._filter()
            if self._step is None and not self._begin_step() and manager.is_drained:
                return  # the last task was tried and trained on
            if manager.scheduler.version < self.config.max_steps:
                manager.feed()  # now: the trainer works meanwhile
            running, most = manager.scheduler.num_running, self.config.scheduler.max_running
            self._metrics.loads.append(running / most)
            if self._step is None and manager.is_drained:
                continue  # `feed` found no task left
            self._crew.look()
            self._tell()
            await self._sleep()

    async def _filter(self) -> None:
        """Judge groups that have just become complete."""
        manager = self.manager
        if self.on_group is None:
            manager.filter()
        else:
            for group in manager.scheduler.take_complete():
                names = manager.scheduler.members(group)
                self.on_group(await asyncio.to_thread(manager.queue.read, names))
                manager.judge(group, names)
            manager.flush()
        refuse_no_signal(manager, self.config)

    def _begin_step(self) -> bool:
        """Begin a step if one may be taken."""
        lease = self.manager.begin_lease()
        if lease is None:
            return False
        self._is_training = True
        self._step = asyncio.get_running_loop().create_task(self._take_step(lease))
        self._step.add_done_callback(lambda _: self._wake.set())
        return True

    async def _take_step(self, lease: Lease) -> None:
        """Train, commit, publish the new weights everywhere, retire the old, save, report."""
        manager, at = self.manager, self.manager.scheduler.version
        self._metrics.begin_step()
        read = functools.partial(manager.read, lease, as_arrays=self._teacher.wants_arrays)
        batch = await self._teacher.call(read)
        metrics = await self._teacher.train(batch, step=at + 1)
        self._is_training = False
        self._metrics.end_step()
        prepared = await self._teacher.weights(self._prepare, step=at + 1)
        if self.config.sync_commits:
            await asyncio.to_thread(manager.queue.sync, lease.names)
        version = manager.commit()
        self._publish(*prepared)  # at once: whoever starts now starts on it
        self._wake.set()
        if self.config.sync_commits:
            await asyncio.to_thread(manager.log.sync)
        self._crew.took_step()
        self._progress_at = time.monotonic()
        if version % self.config.save_every == 0:
            await self._save()
        record = self._metrics.record(
            manager, batch, metrics, at=at, num_restarts=self.num_restarts
        )
        self._metrics.write(record)
        if self.on_step is not None:
            self.on_step(Progress(version, record, batch))
        await self._evaluations.look(version, self._teacher)

    def _prepare(self, weights: Any) -> tuple[Any, str]:
        """Return weights as orders carry them, and their digest; on the trainer's thread."""
        if is_plain(weights):
            return self.share(weights), digest_of(weights)
        digest = Digest()
        shared = self.share_arrays(digested(shards_of(weights), digest))
        return shared, digest.close()

    def _publish(self, shared: Any, digest: str) -> None:
        """Give the newest weights to every controller that is ready."""
        version = self.manager.scheduler.version
        self.manager.log.append({"kind": "weights", "version": version, "digest": digest})
        self._crew.publish(version, shared)

    async def _sleep(self) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await self._wake.wait()
        silent = time.monotonic() - self._progress_at
        is_idle = self._step is None and not self.manager.scheduler.num_running
        if is_idle and not self._crew.is_busy and silent > self.config.stall_deadline_s:
            raise LongcatDoraError(f"no progress for {silent:.0f} s: {self.explain()}")

    def explain(self) -> str:
        """Say in one line who waits for what."""
        if self._is_training:
            running = self.manager.scheduler.num_running
            return f"training; {running} rollouts run meanwhile"
        if self._step is not None:
            return "the step is being committed and published"
        return self.manager.explain()

    def _tell(self, *, is_over: bool = False) -> None:
        self._status.tell(
            "training" if self._is_training else "waiting",
            version=self.manager.scheduler.version, explain=self.explain, is_over=is_over,
        )  # fmt: skip
