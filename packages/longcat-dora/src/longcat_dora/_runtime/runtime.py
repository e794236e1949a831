"""What every runtime does: a manager, a trainer in a thread, and controllers somewhere.

    tasks ──> RolloutManager ──(orders)──> RolloutController x n   each: engine + environments
                 │   ▲                          │
                 │   └──── finished, at once ───┘
                 ▼
             SampleQueue ──> Trainer (a thread) ──> weights n + 1 ──> every controller

- The loop never blocks: it waits for messages and for the trainer's thread together.
- Whatever happens is in the event log before it is acted upon; a run continues from its folder.
- A controller that dies is replaced, and what it was sampling is tried again.
"""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from longcat_dora._books.manager import RolloutManager, Tasks
from longcat_dora._books.scheduler import SchedulerConfig
from longcat_dora._books.why import write_status
from longcat_dora._log.replay import digest_of
from longcat_dora._rollout.controller import Factory
from longcat_dora._types import EndReason, LongcatDoraError, Trainer, Trajectory

from .processes import ControllerProcess
from .weights import HAS_MEMORY_FILES, SharedWeights, WeightsPool


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
    max_failures_in_a_row: int = 100
    """Rollouts that raise with none between them that ends; then the run ends and shows the last error."""
    max_seconds: float = float("inf")
    """Stop after the step that passes this."""
    seed: int = 0
    """Of what engines sample; each attempt has its own, made from this and its place."""


@dataclass(frozen=True, slots=True)
class Progress:
    """After each step."""

    step: int
    metrics: dict[str, Any]
    batch: list[Trajectory]


class Handle(Protocol):
    """A controller, wherever it runs."""

    running: set[str]
    is_ready: bool

    def post(self, *order: Any) -> None:
        """Send an order after all earlier ones; never blocks."""
        ...


class Runtime(ABC):
    """Runs controllers, queue and trainer side by side until `max_steps`, or until `tasks` end.

    Args:
        config: The run; its folder holds the log, the checkpoints and `metrics.jsonl`.
        factory: Builds a `Worker` where a controller runs; must be importable there.
        trainer: Learns in a thread of this process.
        tasks: What to try, in order; asked for one more whenever there is room. With `quotas`, one
            iterator for each domain. To continue a run, pass the same again: what was admitted before is
            passed over.
        on_step: Called after each step.
        on_group: Called with each complete group, before it is filtered or queued.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        factory: Factory,
        trainer: Trainer,
        tasks: Tasks,
        on_step: Callable[[Progress], None] | None = None,
        on_group: Callable[[list[Trajectory]], None] | None = None,
    ) -> None:
        self.config, self.factory, self.trainer, self.tasks = config, factory, trainer, tasks
        self.on_step, self.on_group = on_step, on_group
        self.manager: RolloutManager
        self.handles: list[Handle] = []
        self.num_restarts = 0
        self._weights: Any = None
        """As orders carry them; the newest version's."""
        self._trained = 0
        self._idle_s = 0.0
        self._loads: deque[float] = deque(maxlen=10_000)
        self._wake = asyncio.Event()
        self._progress_at = 0.0
        self._started_at = self._waited_from = 0.0
        self._training: asyncio.Future[Mapping[str, float]] | None = None
        self._training_at: float | None = None
        self._batch: list[Trajectory] = []
        self._status: tuple[str, float] = ("", 0.0)
        """What is waited for, and since when."""
        self._status_at = 0.0
        self._failure: BaseException | None = None
        self._failures_in_a_row = 0
        self.is_over = False
        """Whether controllers are being stopped; what they say is not heard any more."""

    def run(self) -> int:
        """Run to the end; return the last version. Continues the folder's run if there is one.

        Raises:
            LongcatDoraError: No progress, or controllers keep dying.
            KeyboardInterrupt: After a checkpoint was written and the log closed cleanly.
        """
        return asyncio.run(self._run())

    # -- what a runtime decides --------------------------------------------------------------

    @abstractmethod
    def spawn(self, place: int) -> Handle:
        """Start a controller; its messages go to `receive`, its death to `lost`."""

    @abstractmethod
    async def join(self, handle: Any) -> None:
        """Listen to a controller no more, and wait until it has ended."""

    def share(self, weights: bytes) -> Any:
        """Turn weights into what orders carry."""
        return weights

    # -- life --------------------------------------------------------------------------------

    async def _run(self) -> int:
        folder = self.config.folder
        folder.mkdir(parents=True, exist_ok=True)
        version = self._restore() if (folder / "log").is_dir() else 0
        self.manager = RolloutManager(
            folder / "log",
            self.config.scheduler,
            tasks=self.tasks,
            version=version,
            seed=self.config.seed,
            on_group=self.on_group,
        )
        self._progress_at = time.monotonic()
        try:
            self._publish(self.trainer.weights())
            for place in range(self.config.num_controllers):
                self.handles.append(self.spawn(place))
            self.manager.controllers = list(self.handles)
            await self._loop()
            self.manager.end()
            self._save()
            self._tell(is_over=True)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if self._training is not None:  # a step that was begun is finished, and counts
                await self._advance(await self._training)
            self._save()
            raise
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            where = error.filename or self.config.folder
            raise LongcatDoraError(f"{where} must be writable: {error.strerror}") from error
        finally:
            await self._stop()
        return self.manager.scheduler.version

    def _restore(self) -> int:
        """Return the trainer to its newest checkpoint, and the version it stands for."""
        folders = sorted((self.config.folder / "checkpoints").glob("step-*"))
        if not folders:
            return 0
        self.trainer.restore(folders[-1])
        return int(folders[-1].name.removeprefix("step-"))

    def _save(self) -> None:
        version = self.manager.scheduler.version
        folder = self.config.folder / "checkpoints"
        final = folder / f"step-{version:06d}"
        if final.exists():
            return
        part = folder / f".part-{version:06d}"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed while it saved
        part.mkdir(parents=True)
        self.trainer.save(part)
        part.rename(final)
        for old in sorted(folder.glob("step-*"))[:-2]:
            shutil.rmtree(old)

    async def _stop(self) -> None:
        self.is_over = True
        for handle in self.handles:
            handle.post("stop")
        for handle in self.handles:
            await self.join(handle)
        self.manager.close()

    # -- controllers -------------------------------------------------------------------------

    def receive(self, handle: Handle, kind: str, *arguments: Any) -> None:
        """Take a message of a controller."""
        if self.is_over:
            return
        self._progress_at = time.monotonic()
        if kind == "ready":
            handle.post("weights", self.manager.scheduler.version, self._weights)
            handle.is_ready = True
        elif kind == "finished":
            self._failures_in_a_row = 0
            self.manager.finished(handle, *arguments)
        elif kind == "failed":
            self.manager.failed(handle, *arguments)
            if arguments[1] == EndReason.FAILED:
                self._count_failure(arguments[2])
        elif kind == "unwritable":
            raise LongcatDoraError(arguments[0])
        elif kind == "broken":
            raise LongcatDoraError(f"a controller could not be built:\n{arguments[0]}")
        else:
            raise AssertionError(f"unknown message {kind!r}")

    def _count_failure(self, detail: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self.config.max_failures_in_a_row:
            raise LongcatDoraError(
                f"{self._failures_in_a_row} rollouts in a row raised, "
                f"max_failures_in_a_row={self.config.max_failures_in_a_row}; the last one:\n{detail}"
            )

    def wake(self) -> None:
        """Let the loop look again."""
        self._wake.set()

    def crash(self, error: BaseException) -> None:
        """End the run with an error that came up outside the loop."""
        self._failure = self._failure or error
        self._wake.set()

    def lost(self, handle: Handle, how: str) -> None:
        """A controller died: what it was sampling ends, and another one takes its place."""
        if self.is_over:
            return
        self.manager.lost(handle)
        place = self.handles.index(handle)
        self.num_restarts += 1
        if self.num_restarts > self.config.max_controller_restarts:
            del self.handles[place]
            raise LongcatDoraError(
                f"controller {place} died ({how}), and "
                f"max_controller_restarts={self.config.max_controller_restarts} are used up"
            )
        self.handles[place] = self.spawn(place)
        self.manager.controllers = list(self.handles)

    # -- the loop ----------------------------------------------------------------------------

    async def _loop(self) -> None:
        """Takes: messages, the trainer's results. Waits for: either. Stops: after `max_steps`."""
        manager = self.manager
        self._started_at = self._waited_from = time.monotonic()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.crash(_error_of(context)))
        while True:
            if self._failure is not None:
                raise self._failure
            if self._training is not None and self._training.done():
                await self._advance(self._training.result())
                if time.monotonic() - self._started_at > self.config.max_seconds:
                    return
            if manager.scheduler.version >= self.config.max_steps:
                return
            manager.filter()
            if self._training is None and not self._train() and manager.is_drained:
                return  # the last task was tried and trained on
            manager.feed()  # now: the trainer works meanwhile
            running, most = manager.scheduler.num_running, self.config.scheduler.max_running
            self._loads.append(running / most)
            if self._training is None and manager.is_drained:
                continue  # `feed` found no task left
            self._tell()
            await self._sleep()

    def _train(self) -> bool:
        """Begin a step if one may be taken."""
        batch = self.manager.lease()
        if batch is None:
            return False
        self._batch, self._training_at = batch, time.monotonic()
        self._idle_s += self._training_at - self._waited_from
        loop = asyncio.get_running_loop()
        self._training = loop.run_in_executor(None, self.trainer.train, batch)  # begins at once
        self._training.add_done_callback(lambda _: self._wake.set())
        return True

    async def _sleep(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(1.0):
                await self._wake.wait()
        except TimeoutError:
            pass
        silent = time.monotonic() - self._progress_at
        if self._training is None and silent > self.config.stall_deadline_s:
            raise LongcatDoraError(f"no progress for {silent:.0f} s: {self.explain()}")

    def explain(self) -> str:
        """Say in one line who waits for what."""
        if self._training_at is not None:
            running = self.manager.scheduler.num_running
            return f"training; {running} rollouts run meanwhile"
        return self.manager.explain()

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
            self.config.folder, version=self.manager.scheduler.version, why=self.explain(),
            for_s=round(now - self._status[1], 1), is_over=is_over,
        )  # fmt: skip

    def _publish(self, weights: bytes) -> None:
        """Give the newest weights to every controller that is ready."""
        version = self.manager.scheduler.version
        self._weights = self.share(weights)
        digest = digest_of(weights)
        self.manager.log.append({"kind": "weights", "version": version, "digest": digest})
        for handle in self.handles:
            if handle.is_ready:
                handle.post("weights", version, self._weights)
                handle.post("retire", version - 1)

    async def _advance(self, metrics: Mapping[str, float]) -> None:
        """Commit, publish the new weights everywhere, retire the old, report."""
        batch, self._batch = self._batch, []
        self._training = self._training_at = None
        self._waited_from = time.monotonic()
        elapsed_s = self._waited_from - self._started_at
        manager, at = self.manager, self.manager.scheduler.version
        weights = await asyncio.to_thread(self.trainer.weights)
        version = manager.commit()
        self._publish(weights)
        self._trained += len(batch)
        if version % self.config.save_every == 0:
            self._save()
        rewards, loads = manager.take_rewards(), self._loads
        record: dict[str, Any] = {
            "step": version,
            "elapsed_s": round(elapsed_s, 3),
            **metrics,
            "trajectories": self._trained,
            "trajectories_per_s": self._trained / elapsed_s,
            "staleness": dict(sorted(Counter(at - t.versions[-1] for t in batch).items())),
            "live_versions": len(manager.scheduler.live_versions),
            "sampled_reward": sum(rewards) / max(len(rewards), 1),
            "load_ratio": sum(loads) / max(len(loads), 1),
            "trainer_idle_share": self._idle_s / elapsed_s,
            "oldest_s": round(manager.age_of_oldest_s(), 3),
            "filtered_groups": manager.num_filtered,
            "controller_restarts": self.num_restarts,
            "domains": manager.domains(batch),
        }
        loads.clear()
        with (self.config.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._progress_at = time.monotonic()
        if self.on_step is not None:
            self.on_step(Progress(version, record, batch))


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _error_of(context: dict[str, Any]) -> BaseException:
    return context.get("exception") or LongcatDoraError(context["message"])


class LocalRuntime(Runtime):
    """Controllers are processes of this machine. Arguments: see `Runtime`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pool = WeightsPool()

    def spawn(self, place: int) -> ControllerProcess:
        """Start a process and listen to it."""
        handle = ControllerProcess(
            self.factory, place=place, deadline_s=self.config.rollout_deadline_s,
            folder=self.config.folder / "log", writer=self.manager.writer(),
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        loop.add_reader(handle.connection.fileno(), self._read, handle)
        return handle

    async def join(self, handle: ControllerProcess) -> None:
        """Wait for the process to end; it was told to stop."""
        asyncio.get_running_loop().remove_reader(handle.connection.fileno())
        await asyncio.to_thread(handle.close)

    def share(self, weights: bytes) -> SharedWeights | bytes:
        """Put weights where all processes can map them."""
        return self._pool.publish(weights) if HAS_MEMORY_FILES else weights

    def _read(self, handle: ControllerProcess) -> None:
        """Take everything a controller has sent."""
        try:
            while handle.connection.poll():
                message = handle.connection.recv()
                if message[0] == "released":
                    self._pool.release(handle, handle.holds.pop(message[1]))
                else:
                    self.receive(handle, *message)
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(handle.connection.fileno())
            if self.is_over:
                return  # `join` waits for it
            handle.close()
            self._pool.release(handle)
            self.lost(handle, f"exit code {handle.process.exitcode}")
        self.wake()
