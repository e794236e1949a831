"""Weights on their way to other processes on this machine: written once, mapped by all who read.

The publisher writes into memory that has no name and passes it along with the order; a reader maps
it, and says when it has let go of it. Only then is it written to again: nobody can see two versions
in one, or half of one. The system frees it when the last process that holds it is gone, however it
ended.

Arrays are written one by one, so that no more than one of them needs to be there twice at a time.
Written-to memory is used again because fresh memory costs more than the copy: the system has to
clear it first.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

from longcat_dora._log.tensors import Form, Shard, restored

HAS_MEMORY_FILES = hasattr(os, "memfd_create")
"""Linux has them; elsewhere weights go through the pipe."""


_ALIGNED = 64
"""Bytes to a multiple of which each array begins."""


class SharedWeights:
    """One version's bytes, or its arrays one behind another, in memory that others can map."""

    def __init__(self, room: int = 0) -> None:
        self.size = self.room = 0
        """Bytes of it that are a version's; bytes that it has."""
        self.forms: list[Form] | None = None
        """Of arrays; absent if it is bytes."""
        self.users: set[object] = set()
        """Who was given it and has not let go of it."""
        self._file = os.memfd_create("longcat-dora", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # A reader that maps what is taken away would be killed; what is added does no harm.
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._memory: mmap.mmap | None = None
        self._grow(room)

    def write(self, weights: bytes | memoryview) -> None:
        """Fill it with bytes; it must have no user."""
        view = memoryview(weights).cast("B")
        self._begin(view.nbytes, None)
        self._put(0, view)
        self.size = view.nbytes

    def write_arrays(self, shards: Iterable[Shard]) -> None:
        """Fill it with arrays as they come; it must have no user."""
        forms: list[Form] = []
        self._begin(0, forms)
        for form, data in shards:
            forms.append(form)
            begin = _next_begin(self.size)
            if begin + data.nbytes > self.room:
                self._grow(max(begin + data.nbytes, 2 * self.room))
            self._put(begin, data)
            self.size = begin + data.nbytes

    def _begin(self, size: int, forms: list[Form] | None) -> None:
        assert not self.users, "weights that are being read would be written to"
        self.size, self.forms = 0, forms
        if size > self.room:
            self._grow(size)

    def _put(self, begin: int, data: memoryview) -> None:
        if data.nbytes:
            assert self._memory is not None
            memoryview(self._memory)[begin : begin + data.nbytes] = data

    def _grow(self, room: int) -> None:
        if room > self.room:
            if self._memory is not None:
                self._memory.close()
            os.ftruncate(self._file, room)
            self._memory, self.room = mmap.mmap(self._file, room), room

    def send(self, connection: Connection, pid: int) -> None:
        """Pass it to the process at the other end of a pipe, which calls `receive_weights`."""
        reduction.send_handle(connection, self._file, pid)

    def __del__(self) -> None:
        """Let go; orders that carry it hold it until they have left, and who maps it keeps it."""
        if self._memory is not None:
            self._memory.close()
        os.close(self._file)


def _next_begin(end: int) -> int:
    return -(-end // _ALIGNED) * _ALIGNED


def arrays_in(memory: memoryview, forms: Iterable[Form]) -> dict[str, Any]:
    """Return the arrays that `SharedWeights.write_arrays` wrote, in place."""
    found: dict[str, Any] = {}
    end = 0
    for form in forms:
        begin = _next_begin(end)
        end = begin + form.num_bytes
        found[form.name] = restored(form, memory[begin:end])
    return found


class WeightsPool:
    """A publisher's memory: the newest version's, and what readers have not let go of."""

    def __init__(self) -> None:
        self._all: list[SharedWeights] = []
        self._lock = threading.Lock()

    def publish(self, weights: bytes | memoryview) -> SharedWeights:
        """Return a version's bytes in memory that nobody reads.

        The newest is never taken for another.

        From any thread, by one at a time.
        """
        shared = self._take(memoryview(weights).nbytes)
        shared.write(weights)
        return self._add(shared)

    def publish_arrays(self, shards: Iterable[Shard]) -> SharedWeights:
        """Likewise, of arrays as they come."""
        shared = self._take(None)
        shared.write_arrays(shards)
        return self._add(shared)

    def _take(self, room: int | None) -> SharedWeights:
        """Return memory that is free: of just this room, as versions are of one size; or any."""
        with self._lock:
            newest = self._all[-1] if self._all else None
            free = [s for s in self._all if not s.users and s is not newest]
            self._all = [s for s in self._all if s.users or s is newest]
        found = next((s for s in free if room is None or s.room == room), None)
        return found or SharedWeights(room or 0)

    def _add(self, shared: SharedWeights) -> SharedWeights:
        with self._lock:
            self._all.append(shared)
        return shared

    def release(self, user: object, shared: SharedWeights | None = None) -> None:
        """Note that someone has let go of a version, or of all."""
        with self._lock:
            for one in self._all if shared is None else [shared]:
                one.users.discard(user)


def receive_weights(
    connection: Connection, size: int, forms: list[Form] | None, on_release: Callable[[], None]
) -> Any:
    """Map what `SharedWeights.send` passes, without copying.

    `on_release` when nobody holds it any more.

    Returns:
        A view of bytes, or a dictionary of arrays.
    """
    file = reduction.recv_handle(connection)
    try:
        memory = mmap.mmap(file, max(size, 1), prot=mmap.PROT_READ)
    finally:
        os.close(file)
    weakref.finalize(memory, on_release)
    view = memoryview(memory)
    return view if forms is None else arrays_in(view, forms)
