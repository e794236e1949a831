"""A controller in a process of this machine: orders leave through a thread, so that none can block."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from longcat_dora._rollout.controller import Factory, controller_main

from .weights import SharedWeights

_MOST_END_S = 10.0
"""Engines with processes of their own take some seconds to end them."""


class ControllerProcess:
    """One controller seen from the manager: see `Controller`."""

    def __init__(
        self, factory: Factory, *, place: int, deadline_s: float, folder: Path, writer: str
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=controller_main,
            args=(theirs, factory, deadline_s, folder, writer),
            name=f"controller-{place}",
        )  # not a daemon: engines may have processes of their own (vLLM)
        self.process.start()
        atexit.register(self._kill)  # instead: else the interpreter would wait for it
        theirs.close()
        self.running: set[str] = set()
        self.is_ready = False
        self.holds: dict[int, SharedWeights] = {}
        """Versions that were sent and not let go of."""
        self._outbox: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=_send, args=(self,), daemon=True)
        self._sender.start()

    def post(self, *order: Any) -> None:
        """Send an order after all earlier ones."""
        if order[0] == "weights" and isinstance(order[2], SharedWeights):
            order[2].users.add(self)
            self.holds[order[1]] = order[2]
        self._outbox.put(order)

    def take(self) -> tuple[Any, ...] | None:
        """Wait for the next order to be sent."""
        return self._outbox.get()

    def close(self) -> None:
        """Wait for the process (killed if it does not end by itself) and close the pipe."""
        wait([self.process.sentinel], timeout=_MOST_END_S)
        self._kill()
        self.process.join()
        atexit.unregister(self._kill)
        self._outbox.put(None)
        self._sender.join()
        self.connection.close()

    def _kill(self) -> None:
        """End the process and all that it started, also when it has been killed itself."""
        pid = self.process.pid
        assert pid is not None
        # It has not been joined, so that nothing else can have its id.
        with contextlib.suppress(OSError):  # it has no group of its own yet, or none is left
            os.killpg(pid, signal.SIGKILL)
        self.process.kill()


def _send(controller: ControllerProcess) -> None:
    connection, pid = controller.connection, controller.process.pid
    assert pid is not None
    while (order := controller.take()) is not None:
        try:
            _send_one(connection, pid, order)
        except OSError:
            return  # the reader finds the closed pipe and takes care of what was running


def _send_one(connection: Connection, pid: int, order: tuple[Any, ...]) -> None:
    if order[0] == "weights" and isinstance(order[2], SharedWeights):
        connection.send(("shared", order[1], order[2].size))
        order[2].send(connection, pid)
    else:
        connection.send(order)
