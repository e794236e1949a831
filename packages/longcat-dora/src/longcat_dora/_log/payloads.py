"""Trajectories on their way from those who sample to the one who trains: the log's own files.

Whoever samples appends to a file of its own and says where; whoever trains reads there. One copy into the
page cache, one out of it; what is finished survives the death of both processes, since the queue is the log.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from longcat_dora._types import LongcatDoraError, Payload

_MOST_PARTS = 64
"""Pieces written by one call; the system has a limit on them."""


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class PayloadFile:
    """A file with one writer."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o644)
        self._end = os.fstat(self._file).st_size

    def append(self, parts: Sequence[bytes | memoryview]) -> Payload:
        """Write the parts one after another; return where they lie.

        Raises:
            OSError: The disk is full, say; what was written in part is taken back.
        """
        if len(parts) > _MOST_PARTS:
            parts = [b"".join(parts)]
        crc = length = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
            length += len(part)
        try:
            written = os.writev(self._file, parts)
            if written < length:  # a signal, or a disk that has just become full
                rest = memoryview(b"".join(parts))[written:]
                while rest:
                    rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        payload = Payload(self.path.name, self._end, length, crc)
        self._end += length
        return payload

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class PayloadReader:
    """Reads payloads of a folder; keeps its files open.

    Args:
        folder: Of the log.
        verify: Compare checksums: for what may have lain on a disk, not for what was written a moment ago.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder, self.verify = folder, verify
        self._files: dict[str, int] = {}
        self._opening = threading.Lock()
        self._synced: set[str] = set()
        """Files whose names are on the disk."""

    def read(self, payload: Payload) -> bytes:
        """Return the bytes.

        Raises:
            LongcatDoraError: They are missing, or are not what was written.
        """
        try:
            data = os.pread(self._open(payload.file), payload.length, payload.offset)
        except OSError as error:
            path = self.folder / payload.file
            raise LongcatDoraError(f"cannot read {path}: {error.strerror}") from error
        if len(data) != payload.length or (self.verify and zlib.crc32(data) != payload.crc):
            raise LongcatDoraError(
                f"{self.folder / payload.file}: {payload.length} bytes at {payload.offset} must have "
                f"checksum {payload.crc}, got {len(data)} bytes with {zlib.crc32(data)}"
            )
        return data

    def sync(self, names: Iterable[str]) -> None:
        """Wait until what was written to files, by whomever, is on the disk; from any thread."""
        has_new_names = False
        for name in names:
            has_new_names |= name not in self._synced
            os.fdatasync(self._open(name))
            self._synced.add(name)
        if has_new_names:
            sync_folder(self.folder)

    def _open(self, name: str) -> int:
        with self._opening:
            if name not in self._files:
                if name != Path(name).name:
                    raise LongcatDoraError(
                        f"a payload's file must lie in {self.folder}, got {name!r}"
                    )
                self._files[name] = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[name]

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
