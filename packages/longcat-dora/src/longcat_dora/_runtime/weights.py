"""Weights on their way to other processes on this machine: written once, mapped by all who read.

The publisher writes into memory that has no name and passes it along with the order; a reader maps it, and says
when it has let go of it. Only then is it written to again: nobody can see two versions in one, or half of one. The
system frees it when the last process that holds it is gone, however it ended.

Written-to memory is used again because fresh memory costs more than the copy: the system has to clear it first.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection

HAS_MEMORY_FILES = hasattr(os, "memfd_create")
"""Linux has them; elsewhere weights go through the pipe."""


class SharedWeights:
    """One version's bytes, in memory that others can map."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.users: set[object] = set()
        """Who was given it and has not let go of it."""
        self._file = os.memfd_create("longcat-dora", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, size)
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = mmap.mmap(self._file, size)

    def write(self, weights: bytes | memoryview) -> None:
        """Fill it; it must have no user."""
        assert not self.users, "weights that are being read would be written to"
        memoryview(self._memory)[:] = memoryview(weights).cast("B")

    def send(self, connection: Connection, pid: int) -> None:
        """Pass it to the process at the other end of a pipe, which calls `receive_weights`."""
        reduction.send_handle(connection, self._file, pid)

    def __del__(self) -> None:
        """Let go; orders that carry it hold it until they have left, and who maps it keeps it."""
        self._memory.close()
        os.close(self._file)


class WeightsPool:
    """A publisher's memory: the newest version's, and what readers have not let go of."""

    def __init__(self) -> None:
        self._all: list[SharedWeights] = []
        self._lock = threading.Lock()

    def publish(self, weights: bytes | memoryview) -> SharedWeights:
        """Return a version's bytes in memory that nobody reads; the newest is never taken for another.

        From any thread, by one at a time.
        """
        size = memoryview(weights).nbytes
        with self._lock:
            newest = self._all[-1] if self._all else None
            free = [s for s in self._all if not s.users and s is not newest]
            shared = next((s for s in free if s.size == size), None)
            self._all = [s for s in self._all if s.users or s is newest]
        shared = shared or SharedWeights(size)
        shared.write(weights)
        with self._lock:
            self._all.append(shared)
        return shared

    def release(self, user: object, shared: SharedWeights | None = None) -> None:
        """Note that someone has let go of a version, or of all."""
        with self._lock:
            for one in self._all if shared is None else [shared]:
                one.users.discard(user)


def receive_weights(
    connection: Connection, size: int, on_release: Callable[[], None]
) -> memoryview:
    """Map what `SharedWeights.send` passes, without copying; `on_release` when nobody holds it any more."""
    file = reduction.recv_handle(connection)
    try:
        memory = mmap.mmap(file, size, prot=mmap.PROT_READ)
    finally:
        os.close(file)
    weakref.finalize(memory, on_release)
    return memoryview(memory)
