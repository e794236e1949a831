"""Trajectories on their way from those who sample to the one who trains: the log's own files.

Whoever samples appends to a file of its own and says where; whoever trains reads there. One copy
into the page cache, one out of it; what is finished survives the death of both processes, since the
queue is the log.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from longcat_dora._types import LongcatDoraError, Payload

PAYLOAD_BYTES = 256 * 2**20
"""Of a file of trajectories, after which another one is begun."""
_MOST_OPEN = 64
"""Files that a reader keeps open."""
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
    """A file with one writer, or several one after another.

    `payloads-003.bin`, `payloads-003-001.bin` ...

    Args:
        folder: Of the log.
        name: Of the first one.
        most_bytes: Of a file, after which the next one is begun, so that old ones can be archived.
    """

    def __init__(self, folder: Path, name: str, *, most_bytes: int | None = None) -> None:
        self.path, self._first = folder / name, folder / name
        self.most_bytes, self._number = most_bytes, 0
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o644)
        self._end = os.fstat(self._file).st_size

    def _begin_next(self) -> None:
        os.close(self._file)
        self._number += 1
        self.path = self._first.with_stem(f"{self._first.stem}-{self._number:03d}")
        self._open()

    def append(self, parts: Sequence[bytes | memoryview]) -> Payload:
        """Write the parts one after another; return where they lie.

        Raises:
            OSError: The disk is full, say; what was written in part is taken back.
        """
        if len(parts) > _MOST_PARTS:
            parts = [b"".join(parts)]
        if self.most_bytes is not None and self._end >= self.most_bytes:
            self._begin_next()
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


class _Descriptor:
    """A file that is open as long as somebody uses it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class PayloadReader:
    """Reads payloads of a folder; keeps the files that were read last open.

    Args:
        folder: Of the log.
        verify: Compare checksums: for what may have lain on a disk, not for what was written a
            moment ago.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        self.folder, self.verify = folder, verify
        self._files: dict[str, _Descriptor] = {}
        """The one that was used last is last."""
        self._opening = threading.Lock()
        self._synced: set[str] = set()
        """Files whose names are on the disk."""

    def read(self, payload: Payload) -> bytes:
        """Return the bytes.

        Raises:
            LongcatDoraError: They are missing, or are not what was written.
        """
        try:
            file = self._open(payload.file)
            data = os.pread(file.number, payload.length, payload.offset)
        except OSError as error:
            path = self.folder / payload.file
            raise LongcatDoraError(f"cannot read {path}: {error.strerror}") from error
        if len(data) != payload.length or (self.verify and zlib.crc32(data) != payload.crc):
            raise LongcatDoraError(
                f"{self.folder / payload.file}: {payload.length} bytes at {payload.offset} must"
                " have "
                f"checksum {payload.crc}, got {len(data)} bytes with {zlib.crc32(data)}"
            )
        return data

    def sync(self, names: Iterable[str]) -> None:
        """Wait until what was written to files, by whomever, is on the disk; from any thread."""
        has_new_names = False
        for name in names:
            has_new_names |= name not in self._synced
            file = self._open(name)  # held: another thread may put it out of those kept open
            os.fdatasync(file.number)
            self._synced.add(name)
        if has_new_names:
            sync_folder(self.folder)

    def _open(self, name: str) -> _Descriptor:
        with self._opening:
            file = self._files.pop(name, None)
            if file is None:
                if name != Path(name).name:
                    raise LongcatDoraError(
                        f"a payload's file must lie in {self.folder}, got {name!r}"
                    )
                file = _Descriptor(self.folder / name)
            self._files[name] = file
            if len(self._files) > _MOST_OPEN:
                del self._files[next(iter(self._files))]  # closed when nobody reads it any more
            return file

    def close(self) -> None:
        """Close all files."""
        self._files.clear()
