"""A controller in a process of its own: what happens there from its first line on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from longcat_dora._log.payloads import PAYLOAD_BYTES, PayloadFile
from longcat_dora._log.tensors import Form
from longcat_dora._rollout.controller import RolloutController
from longcat_dora._rollout.fork import end_copy, keep_at_home
from longcat_dora._rollout.messages import (
    Broken,
    LoadWeights,
    Noted,
    Ready,
    Released,
    Report,
    RolloutFinished,
    Stop,
)
from longcat_dora._types import Finished, LongcatDoraError, Trajectory, Worker

from .travel import Script
from .weights import receive_weights


class Build(NamedTuple):
    """The first thing that is sent to it, perhaps long before there is a run to work for."""

    factory: bytes
    script: Script | None


class Setup(NamedTuple):
    """The second: the run that it works for."""

    deadline_s: float
    folder: Path
    writer: str


class SharedWeightsFollow(NamedTuple):
    """A version's weights come next, as a file that is mapped."""

    version: int
    size: int
    forms: list[Form] | None
    """Of the arrays in it; absent if it is bytes."""


class _ScriptStopped(BaseException):
    """The script has come to where it starts the run; what is above that is there."""


class _ScriptModule(ModuleType):
    """Stands for `__main__`; executes the script when something of it is wanted."""

    def __init__(self, script: Script) -> None:
        super().__init__("__mp_main__")
        self.__dict__["_script"] = script

    def __getattr__(self, name: str) -> Any:
        script: Script | None = self.__dict__.pop("_script", None)
        if script is None or name.startswith("__"):
            if script is not None:
                self.__dict__["_script"] = script
            raise AttributeError(f"the script has no {name!r} above the line that starts the run")
        self._execute(script)
        return getattr(self, name)

    def _execute(self, script: Script) -> None:
        self.__dict__.update(__file__=script.path, __package__=script.package)
        _importing.add(script.path)
        try:
            source = Path(script.path).read_bytes()
            exec(compile(source, script.path, "exec"), self.__dict__)
        except (_ScriptStopped, SystemExit):
            pass
        finally:
            _importing.discard(script.path)


_importing: set[str] = set()
"""The script, while it is executed in a controller."""


def refuse_in_controller() -> None:
    """Stop a script here that is executed in a controller, for what is above the run."""
    if _importing:
        raise _ScriptStopped


def main(descriptor: int) -> None:
    """Entry point, at one end of a pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the manager decides when to stop
    connection = Connection(descriptor)
    # Whoever else holds this end of the pipe hides this process's death.
    os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=connection.close)
    try:
        worker = _build(pickle.loads(connection.recv_bytes()))
        setup: Setup = pickle.loads(connection.recv_bytes())
        file = PayloadFile(setup.folder, setup.writer, most_bytes=PAYLOAD_BYTES)
    except (EOFError, ConnectionError):
        return  # the manager is gone already
    except OSError as error:
        _try_to_send(connection, Broken(f"cannot start: {error}"))
        return
    except BaseException:
        problem = f"it could not build its worker:\n{traceback.format_exc()}"
        _try_to_send(connection, Broken(problem))
        return
    if _try_to_send(connection, Ready()):
        _run(connection, _serve(connection, worker, setup.deadline_s, file))


def _run(connection: Connection, serve: Coroutine[Any, Any, None]) -> None:
    """Serve to the end; if a world stops the loop, it goes on."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        keep_at_home(loop)
        serving = loop.create_task(serve)
        serving.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        if not serving.done():
            told = "a world stopped its controller's event loop; it goes on"
            _try_to_send(connection, Noted(told))
        while not serving.done():
            loop.run_forever()
        serving.result()


def _build(build: Build) -> Worker:
    if build.script is not None:
        sys.argv = list(build.script.argv)
        module = _ScriptModule(build.script)
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    worker = pickle.loads(build.factory)()
    if not isinstance(worker, Worker):
        raise LongcatDoraError(f"factory must return a Worker, it returned {type(worker).__name__}")
    return worker


def _try_to_send(connection: Connection, report: Report) -> bool:
    try:
        connection.send(report)
    except OSError:  # the manager is gone
        return False
    return True


async def _serve(
    connection: Connection, worker: Worker, deadline_s: float, file: PayloadFile
) -> None:
    """Takes: orders. Gives: reports. Stops: when told to, or when the manager is gone."""

    def tell(report: Report) -> None:
        if not _try_to_send(connection, report):
            controller.stopped.set()

    def deliver(trajectory: Trajectory, num_splits: int) -> None:
        parts = trajectory.to_parts()
        try:
            payload = file.append(parts)
        except OSError as error:
            tell(Broken(f"cannot write {file.path}: {error.strerror}"))
            return
        tell(RolloutFinished(Finished.of(trajectory, num_splits=num_splits), payload))

    def read() -> None:
        try:
            while connection.poll():
                order = pickle.loads(connection.recv_bytes())
                if isinstance(order, SharedWeightsFollow):
                    released = functools.partial(tell, Released(order.version))
                    weights = receive_weights(connection, order.size, order.forms, released)
                    order = LoadWeights(order.version, weights)
                    del weights  # else this frame would hold it until the next order
                controller.obey(order)
                del order
        except (EOFError, OSError):
            controller.obey(Stop())

    home = os.getpid()
    controller = RolloutController(worker, deadline_s=deadline_s, deliver=deliver, tell=tell)
    loop = asyncio.get_running_loop()
    loop.add_reader(connection.fileno(), read)
    while not controller.stopped.is_set():
        with contextlib.suppress(asyncio.CancelledError):  # a world cancels all tasks that it finds
            await controller.stopped.wait()
    end_copy(home)  # its pipe is closed
    loop.remove_reader(connection.fileno())
    await controller.close()
    file.close()
    # Threads of plain agents and rollouts that hear nothing would hold up the end for ever.
    with contextlib.suppress(Exception):  # a world may have closed them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)
