"""A rollout controller: a virtual rollout group of an engine, environments, and some trajectories.

Takes: weights, starts, moves and retirements. Gives: finished and failed trajectories, whose tokens go to a
payload file or along with the message. Stops when: told to, or the manager is gone.
A rollout that raises is data (`failed`), never a crash of the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from longcat_dora._log.payloads import PayloadFile
from longcat_dora._runtime.weights import receive_weights
from longcat_dora._types import EndReason, Finished, Mask, Trajectory, Worker

from .session import Session

Factory = Callable[[], Worker]


class RolloutController:
    """Obeys a manager's orders; where it runs, and how messages reach it, is the runtime's affair.

    Args:
        worker: The engine and the rollout function.
        deadline_s: Of one rollout.
        deliver: Takes a finished trajectory to where the manager finds it.
        tell: Takes a message to the manager.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        deadline_s: float,
        deliver: Callable[[Trajectory], None],
        tell: Callable[..., None],
    ) -> None:
        self.worker, self.deadline_s, self.deliver, self.tell = worker, deadline_s, deliver, tell
        self.stopped = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sessions: dict[str, Session] = {}
        self._num_sessions: Counter[int] = Counter()
        """By version."""
        self._retiring: set[int] = set()

    def obey(self, order: str, *arguments: Any) -> None:
        """Carry out an order."""
        if order == "start":
            self._start(*arguments)
        elif order == "abort":
            if arguments[0] in self._tasks:
                self._tasks[arguments[0]].cancel()
        elif order == "move":
            self._move(*arguments)
        elif order == "weights":
            self.worker.engine.load_weights(*arguments)
        elif order == "retire":
            self._retiring.update(arguments)
            self._retire()
        elif order == "stop":
            self.stopped.set()
        else:
            raise AssertionError(f"unknown order {order!r}")

    async def close(self) -> None:
        """Cancel what is running, and stop the engine, if it can be."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if (stop := getattr(self.worker.engine, "stop", None)) is not None:
            await stop()

    def _start(
        self, trajectory: str, group: str, task: str, domain: str, version: int, payload: Any,
        seed: int,
    ) -> None:  # fmt: skip
        session = Session(self.worker, version, seed=seed)
        self._sessions[trajectory] = session
        # Counted now, not when the rollout first runs: the next order may be to retire its version.
        self._num_sessions[version] += 1
        rollout = self._rollout(trajectory, group, task, domain, payload, session)
        running = asyncio.get_running_loop().create_task(rollout)
        self._tasks[trajectory] = running
        running.add_done_callback(lambda _: self._is_over(trajectory))

    def _is_over(self, trajectory: str) -> None:
        del self._tasks[trajectory]
        self._num_sessions[self._sessions.pop(trajectory).version] -= 1
        self._retire()

    async def _rollout(
        self, trajectory: str, group: str, task: str, domain: str, payload: Any, session: Session
    ) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.deadline_s):
                outcome = await self.worker.rollout(payload, session)
        except TimeoutError:
            detail = f"the rollout of task {task!r} took more than {self.deadline_s:g} s"
            self.tell("failed", trajectory, str(EndReason.DEADLINE), detail)
            return
        except Mask as mask:
            self.tell("failed", trajectory, str(EndReason.MASKED), str(mask))
            return
        except Exception:
            detail = traceback.format_exc(limit=-3)
            self.tell("failed", trajectory, str(EndReason.FAILED), detail)
            return
        finally:
            await session.close()
        reward, info = outcome if isinstance(outcome, tuple) else (outcome, {})
        self.deliver(Trajectory(
            trajectory, group, task, domain, session.first_version, session.segments,
            float(reward), info, time.monotonic() - started,
        ))  # fmt: skip

    def _move(self, trajectory: str, version: int) -> None:
        session = self._sessions.get(trajectory)
        if session is not None:
            self._num_sessions[session.version] -= 1
            self._num_sessions[version] += 1
            session.move(version)
            self._retire()

    def _retire(self) -> None:
        """Free versions that nobody here will speak on any more."""
        for version in [v for v in self._retiring if not self._num_sessions[v]]:
            self._retiring.discard(version)
            self.worker.engine.retire(version)


def controller_main(
    connection: Connection, factory: Factory, deadline_s: float, folder: Path, name: str
) -> None:
    """Entry point of a controller in a process of its own, at one end of a pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the manager decides when to stop
    os.setpgrp()  # whoever ends this process ends with it what the engine and the worlds started
    try:
        worker = factory()
    except BaseException:
        connection.send(("broken", traceback.format_exc()))
        return
    with contextlib.suppress(BrokenPipeError):  # the manager may be gone already
        connection.send(("ready",))
        asyncio.run(_serve(connection, worker, deadline_s, PayloadFile(folder, name)))


async def _serve(
    connection: Connection, worker: Worker, deadline_s: float, file: PayloadFile
) -> None:
    def tell(*message: Any) -> None:
        try:
            connection.send(message)
        except (BrokenPipeError, OSError):
            controller.stopped.set()

    def deliver(trajectory: Trajectory) -> None:
        try:
            payload = file.append(trajectory.to_parts())
        except OSError as error:
            tell("unwritable", f"{file.path} must be writable: {error.strerror}")
            return
        tell("finished", Finished.of(trajectory), payload)

    def read() -> None:
        try:
            while connection.poll():
                order, *arguments = connection.recv()
                if order == "shared":
                    version, size = arguments
                    released = functools.partial(tell, "released", version)
                    view = receive_weights(connection, size, released)
                    order, arguments = "weights", [version, view]
                    del view  # else this frame would hold it until the next order
                controller.obey(order, *arguments)
        except (EOFError, OSError):
            controller.stopped.set()

    controller = RolloutController(worker, deadline_s=deadline_s, deliver=deliver, tell=tell)
    loop = asyncio.get_running_loop()
    loop.add_reader(connection.fileno(), read)
    await controller.stopped.wait()
    loop.remove_reader(connection.fileno())
    await controller.close()
