"""The event log.

Append-only, every line chained to the one before, healed only where a crash tears.

    events-000000.jsonl  events-000001.jsonl ...  full ones, never written to again
    events.jsonl                                  the one that is appended to
    payloads-*.bin, tasks.bin                     bulk data; the event that owns it says where
    (`Payload`) archived-000005-DIGEST.jsonl                  what archived files have left behind
    (`summary.py`)

- The first line of a file is its `Head`: the format, and which line it goes on from (`lines.py`).
- A last line without its end is what a crash leaves: nobody was told that it was written, and it is
  cut off when the log is opened again. Anything else that is wrong is an error, and nothing is cut.
- What is synced survives a power cut: see `EventLog.sync`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from longcat_dora._types import LongcatDoraError

from .events import FORMAT, Event, Head
from .lines import EVENTS, FULL, encode_event, full_name
from .lock import FolderLock
from .payloads import sync_folder
from .reader import LogReader
from .summary import Summary

SEGMENT_BYTES = 64 * 2**20


class EventLog:
    """Appends to a log.

    Opening an existing one reads it whole, and cuts off a last line that a crash tore.

    Each event is given the seconds since the log was opened, as `at`; the clock cannot be set back.

    Args:
        folder: Of the log.
        begin: Is given the summary of archived files, if there is one, before any event.
        visit: Is given each event that is there already.
        lock: Of the folder; taken here when absent.
        segment_bytes: Of a file, after which another one is begun.

    Raises:
        LongcatDoraError: Another process writes to the folder, or the log is damaged: then nothing
            was cut.
    """

    def __init__(
        self,
        folder: Path,
        *,
        begin: Callable[[Summary], None] | None = None,
        visit: Callable[[Event], None] | None = None,
        lock: FolderLock | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.segment_bytes = folder, segment_bytes
        self._lock = lock or FolderLock(folder)
        self._end = self._chain = self.torn_bytes = 0
        self.num_before = 0
        """Events that were there already."""
        self._full: list[int] = []
        """Files that are full and not synced yet."""
        self._has_new_names = True
        """Whether a file was created or renamed since the last sync."""
        self._changing_files = threading.Lock()
        """Held while a file becomes full, and while files are taken to be synced."""
        try:
            self._recall(begin, visit)
        except BaseException:
            self._lock.close()
            raise
        self._opened = time.monotonic()

    def _recall(
        self, begin: Callable[[Summary], None] | None, visit: Callable[[Event], None] | None
    ) -> None:
        """Read what is there, heal its end, and open the last file."""
        file = self.folder / EVENTS
        self._number = 0
        if file.exists() or any(self.folder.glob(FULL)):
            reader = LogReader(self.folder)
            if reader.summary is not None and begin is not None:
                begin(reader.summary)
            for event in reader:
                self.num_before += 1
                if visit is not None:
                    visit(event)
            if reader.first and reader.summary is None:
                raise LongcatDoraError(
                    f"the parts of {self.folder} before number {reader.first} must be there, or"
                    " their"
                    " summary (`longcat-dora archive`): put them back"
                )
            self.torn_bytes, position = reader.torn_bytes, reader.position
            if position is not None:
                self._chain = position.chain
                self._end = position.end if position.file == file else 0
                self._number = reader.number + (position.file != file)
            if self.torn_bytes:
                os.truncate(file, self._end)
        self._events = self._open()
        if not self._end:
            self._write_head()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.folder / EVENTS, flags, 0o644)

    def append(self, *events: Event) -> None:
        """Write events, all of them or none.

        Raises:
            LongcatDoraError: The disk is full, say.
        """
        if not events:
            return
        at = round(time.monotonic() - self._opened, 4)
        chain, lines = self._chain, list[bytes]()
        for event in events:
            line, chain = encode_event({**event, "at": at}, chain)
            lines.append(line)
        self._write(b"".join(lines))
        self._chain = chain
        if self._end >= self.segment_bytes:
            self._begin_segment()

    def _write(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._events, rest) :]
        except OSError as error:
            os.ftruncate(self._events, self._end)
            raise LongcatDoraError(
                f"cannot write {self.folder / EVENTS}: {error.strerror}"
            ) from error
        self._end += len(data)

    def _begin_segment(self) -> None:
        with self._changing_files:
            (self.folder / EVENTS).rename(self.folder / full_name(self._number))
            self._full.append(self._events)
            self._has_new_names = True
            self._number += 1
            self._events, self._end = self._open(), 0
        self._write_head()

    def _write_head(self) -> None:
        head: Head = {
            "kind": "log", "format": FORMAT, "number": self._number, "chain": self._chain,
        }  # fmt: skip
        line, self._chain = encode_event(cast("Mapping[str, Any]", head), self._chain)
        self._write(line)

    def sync(self) -> None:
        """Wait until all that was appended is on the disk; may be called from one other thread."""
        with self._changing_files:
            files, self._full = [*self._full, os.dup(self._events)], []
            has_new_names, self._has_new_names = self._has_new_names, False
        for file in files:  # ours alone: whatever becomes full meanwhile is the next sync's
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
        if has_new_names:
            sync_folder(self.folder)

    def close(self) -> None:
        """Close the files, and let go of the folder."""
        for file in [*self._full, self._events]:
            os.close(file)
        self._full = []
        self._lock.close()
