"""A rollout controller: one process with an engine, environments, and some trajectories.

Takes: weights, starts and retirements, over a pipe. Gives: finished and failed trajectories.
Waits for: the pipe and its rollouts. Stops when: told to, or the manager's end of the pipe closes.
A rollout that raises is data (`failed`), never a crash of the controller.
"""

from __future__ import annotations

import asyncio
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ._session import Session
from ._types import EndReason, Trajectory, Worker

Factory = Callable[[], Worker]


def controller_main(connection: Connection, factory: Factory, deadline_s: float) -> None:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the manager decides when to stop
    try:
        worker = factory()
    except BaseException:
        connection.send(("broken", traceback.format_exc()))
        raise
    connection.send(("ready",))
    asyncio.run(_Controller(connection, worker, deadline_s).run())


class _Controller:
    def __init__(self, connection: Connection, worker: Worker, deadline_s: float) -> None:
        self.connection, self.worker, self.deadline_s = connection, worker, deadline_s
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.stopped = asyncio.Event()
        self.num_sessions: Counter[int] = Counter()
        self.retiring: set[int] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self.connection.fileno(), self._read)
        await self.stopped.wait()
        loop.remove_reader(self.connection.fileno())
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self) -> None:
        try:
            while self.connection.poll():
                self._obey(*self.connection.recv())
        except (EOFError, OSError):
            self.stopped.set()

    def _obey(self, order: str, *arguments: Any) -> None:
        if order == "start":
            task = asyncio.get_running_loop().create_task(self._rollout(*arguments))
            name = arguments[0]
            self.tasks[name] = task
            task.add_done_callback(lambda _: self.tasks.pop(name, None))
        elif order == "abort":
            if arguments[0] in self.tasks:
                self.tasks[arguments[0]].cancel()
        elif order == "weights":
            self.worker.engine.load_weights(*arguments)
        elif order == "retire":
            self.retiring.update(arguments)
            self._retire()
        elif order == "stop":
            self.stopped.set()
        else:
            raise AssertionError(f"unknown order {order!r}")

    async def _rollout(
        self, trajectory: str, group: str, task: str, domain: str, version: int, payload: Any
    ) -> None:
        session = Session(self.worker, version)
        self.num_sessions[version] += 1
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.deadline_s):
                outcome = await self.worker.rollout(payload, session)
        except TimeoutError:
            detail = f"the rollout of task {task!r} took more than {self.deadline_s:g} s"
            self._send("failed", trajectory, str(EndReason.DEADLINE), detail)
            return
        except Exception:
            detail = traceback.format_exc(limit=-3)
            self._send("failed", trajectory, str(EndReason.FAILED), detail)
            return
        finally:
            await session.close()
            self.num_sessions[version] -= 1
            self._retire()
        reward, info = outcome if isinstance(outcome, tuple) else (outcome, {})
        self._send("finished", Trajectory(
            trajectory, group, task, domain, session.version, session.segments, float(reward),
            info, time.monotonic() - started,
        ))  # fmt: skip

    def _retire(self) -> None:
        """Free versions that nobody here will speak on any more."""
        for version in [v for v in self.retiring if not self.num_sessions[v]]:
            self.retiring.discard(version)
            self.worker.engine.retire(version)

    def _send(self, *message: Any) -> None:
        try:
            self.connection.send(message)
        except (BrokenPipeError, OSError):
            self.stopped.set()
