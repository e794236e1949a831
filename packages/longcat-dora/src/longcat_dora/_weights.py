"""Weights on their way to other processes on this machine: written once, mapped by all who read.

The publisher writes into memory that has no name, seals it, and passes it along with the order; a reader
maps it. Nobody can see it half written, nobody can alter it, and the system frees it when the last one lets
go, however they end.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from multiprocessing import reduction
from multiprocessing.connection import Connection

HAS_MEMORY_FILES = hasattr(os, "memfd_create")
"""Linux has them; elsewhere weights go through the pipe."""


class SharedWeights:
    """One version's bytes, in memory that others can map."""

    def __init__(self, weights: bytes) -> None:
        self.size = len(weights)
        self._file = os.memfd_create("longcat-dora", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, self.size)
        rest = memoryview(weights)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, seals)

    def send(self, connection: Connection, pid: int) -> None:
        """Pass it to the process at the other end of a pipe, which calls `receive_weights`."""
        reduction.send_handle(connection, self._file, pid)

    def __del__(self) -> None:
        """Let go; orders that carry it hold it until they have left, and who maps it keeps it."""
        os.close(self._file)


def receive_weights(connection: Connection, size: int) -> memoryview:
    """Map what `SharedWeights.send` passes, without copying."""
    file = reduction.recv_handle(connection)
    try:
        return memoryview(mmap.mmap(file, size, prot=mmap.PROT_READ))
    finally:
        os.close(file)
