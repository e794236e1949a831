"""A controller in a process of this machine.

Orders leave through a thread, so that none can block.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from longcat_dora._rollout.messages import LoadWeights, Order

from .child import Build, Setup, SharedWeightsFollow
from .travel import Luggage
from .weights import SharedWeights

_MOST_END_S = 10.0
"""Engines with processes of their own take some seconds to end them."""
_CODE = (
    "import json,sys; sys.path[:]=json.loads(sys.argv.pop()); "
    "from longcat_dora._runtime.child import main; "
)


class ControllerProcess:
    """One controller seen from the manager: see `Controller`.

    It builds its worker as soon as it has begun, and works once it is employed.
    """

    def __init__(self, luggage: Luggage, *, place: int) -> None:
        self.luggage = luggage
        self.connection, theirs = multiprocessing.Pipe()
        try:
            descriptor = theirs.fileno()
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", f"{_CODE}main({descriptor})", f"controller-{place}",
                    json.dumps(sys.path),
                ],
                pass_fds=[descriptor], stdin=subprocess.DEVNULL,
                # Whoever ends it ends with it what the engine and the worlds started.
                process_group=0,
            )  # fmt: skip
        except OSError:
            self.connection.close()
            raise
        finally:
            theirs.close()
        atexit.register(self.kill)
        self.running: set[str] = set()
        self.is_ready = False
        self.holds: dict[int, SharedWeights] = {}
        """Versions that were sent and not let go of."""
        self._outbox: queue.SimpleQueue[bytes | SharedWeightsFollow | None] = queue.SimpleQueue()
        self._shared: dict[int, SharedWeights] = {}
        """Versions that are to be sent."""
        self._outbox.put(pickle.dumps(Build(luggage.factory, luggage.script)))
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def employ(self, *, deadline_s: float, folder: Path, writer: str) -> None:
        """Tell it which run it works for; it says when it is ready."""
        self._outbox.put(pickle.dumps(Setup(deadline_s, folder.absolute(), writer)))

    def post(self, order: Order) -> None:
        """Send an order after all earlier ones."""
        if isinstance(order, LoadWeights) and isinstance(order.weights, SharedWeights):
            order.weights.users.add(self)
            self.holds[order.version] = self._shared[order.version] = order.weights
            weights = order.weights
            self._outbox.put(SharedWeightsFollow(order.version, weights.size, weights.forms))
        else:
            self._outbox.put(self.luggage.pack_order(order))

    def kill(self) -> None:
        """End the process and all that it started, also when it has been killed itself."""
        if self.process.returncode is not None:
            return  # it was waited for: another process may have its id by now
        with contextlib.suppress(OSError):  # none of its group is left
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Wait for the process (killed if it does not end by itself) and close the pipe."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_MOST_END_S)
        with contextlib.suppress(OSError):  # what it started, if that is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        atexit.unregister(self.kill)
        self._outbox.put(None)
        self.connection.close()
        self._sender.join()

    def _send(self) -> None:
        while (item := self._outbox.get()) is not None:
            try:
                self._send_one(self.connection, item)
            except (OSError, ValueError, TypeError):
                return  # the reader finds the closed pipe and takes care of what was running

    def _send_one(self, connection: Connection, item: bytes | SharedWeightsFollow) -> None:
        if isinstance(item, bytes):
            connection.send_bytes(item)
        else:
            connection.send_bytes(pickle.dumps(item))
            self._shared.pop(item.version).send(connection, self.process.pid)
