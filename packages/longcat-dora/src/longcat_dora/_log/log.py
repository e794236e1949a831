"""The event log: append-only, every line chained to the one before, healed only where a crash tears.

One JSON object a line: `{"crc": ..., "event": {...}}`. The checksum goes on from the line before, so that a
line that is altered, lost, doubled or out of its place is found. Files:

    events-000000.jsonl  events-000001.jsonl ...  full ones, never written to again
    events.jsonl                                  the one that is appended to
    payloads-*.bin, tasks.bin                     bulk data; the event that owns it says where (`Payload`)

- The first line of a file is its `Head`: the format, and which line it goes on from.
- A last line without its end is what a crash leaves: nobody was told that it was written, and it is cut off
  when the log is opened again. Anything else that is wrong is an error, and nothing is cut.
- What is synced survives a power cut: see `EventLog.sync`.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from longcat_dora._types import LongcatDoraError, Payload, Trajectory

from .events import FORMAT, Event, Head, is_event, problem_of
from .lock import FolderLock
from .payloads import PayloadReader, sync_folder

EVENTS = "events.jsonl"
_FULL = "events-[0-9]*.jsonl"
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode


class LogDamagedError(LongcatDoraError):
    """A log cannot be read on from some line.

    Attributes:
        file: In which it is.
        line: From 1.
        offset: Bytes of the file before that line.
    """

    def __init__(self, file: Path, line: int, offset: int, problem: str) -> None:
        super().__init__(f"{file}, line {line}: {problem}")
        self.file, self.line, self.offset, self.problem = file, line, offset, problem


def encode_event(event: Mapping[str, Any], chain: int) -> tuple[bytes, int]:
    """Return the line of an event after a line with checksum `chain`, and its own checksum."""
    body = _encode(event).encode()
    crc = zlib.crc32(body, chain)
    return b'{"crc":%d,"event":%b}\n' % (crc, body), crc


def decode_event(line: bytes, chain: int) -> tuple[Any, int] | None:
    """Read a line that follows one with checksum `chain`; `None` if it is torn or altered."""
    head, _, rest = line.partition(b',"event":')
    body = rest[:-2]
    crc = zlib.crc32(body, chain)
    if not rest.endswith(b"}\n") or head != b'{"crc":%d' % crc:
        return None
    return _decode(body.decode())[0], crc


class Place(NamedTuple):
    """Where an event lies."""

    file: Path
    line: int
    """From 1."""
    end: int
    """Bytes of the file up to the end of its line."""
    chain: int
    """Checksum of its line."""


class LogReader:
    """Reads a log folder, or one of its files; iterate over it as often as you like.

    Attributes:
        folder: The payloads lie there.
        torn_bytes: After an iteration: of a last line that was not finished.
        first: Number of the first file that is here; more than 0 if earlier ones are elsewhere.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.folder = path if path.is_dir() else path.parent
        self.files = _files(path)
        self.torn_bytes = self.first = 0
        self._at: tuple[Path, int, int, int] | None = None
        """As `Place` has it."""

    @property
    def place(self) -> Place | None:
        """Of the last line that was read."""
        return None if self._at is None else Place(*self._at)

    def __iter__(self) -> Iterator[Event]:
        self.torn_bytes, self._at = 0, None
        for file in self.files:
            yield from self._read(file)

    def _read(self, file: Path) -> Iterator[Event]:
        end, number, chain = 0, 0, 0
        with file.open("rb") as stream:
            for line in stream:
                number += 1
                if number == 1:
                    chain = self._read_head(file, line)
                    end = len(line)
                    if not chain:
                        return
                    continue
                found = decode_event(line, chain)
                if found is None:
                    self._take_torn(file, number, end, line, chain)
                    return
                event, chain = found
                if not is_event(event):
                    raise LogDamagedError(file, number, end, problem_of(event) or "is no event")
                end += len(line)
                self._at = (file, number, end, chain)
                yield event

    def _read_head(self, file: Path, line: bytes) -> int:
        """Read a file's first line; return its checksum, or 0 if a crash tore it."""
        chain = self._chain_before(line)
        found = decode_event(line, chain)
        if found is None:
            self._take_torn(file, 1, 0, line, chain)
            return 0
        problem = _head_problem(found[0])
        if problem is not None:
            raise LogDamagedError(file, 1, 0, problem)
        if file == self.files[0]:
            self.first = found[0]["number"]
        self._at = (file, 1, len(line), found[1])
        return found[1]

    def _take_torn(self, file: Path, number: int, end: int, line: bytes, chain: int) -> None:
        """Note a last line that a crash tore; anything else is damage."""
        if file != self.files[-1] or not _is_torn(line, chain):
            raise LogDamagedError(file, number, end, _WRONG)
        self.torn_bytes = len(line)

    def _chain_before(self, line: bytes) -> int:
        """The checksum that a file's first line goes on from; of a file that is elsewhere, it says so itself."""
        if self._at is not None:
            return self._at[3]
        try:
            return int(json.loads(line)["event"].get("chain", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0


_WRONG = (
    "is not what was written after the line before it; a last line that a crash tore has no end, and this one"
    " is something else. `longcat-dora repair` shows what could be kept"
)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob(_FULL))
        if (path / EVENTS).is_file() or not files:
            files.append(path / EVENTS)
    else:
        files = [path]
    if not files[0].is_file():
        raise LongcatDoraError(f"an event log must be a file or a folder with {EVENTS}: {path}")
    return files


def _is_torn(line: bytes, chain: int) -> bool:
    """Whether a line is what a crash leaves: without its end, and no whole line but for an altered end."""
    return not line.endswith(b"\n") and decode_event(line[:-1] + b"\n", chain) is None


def _head_problem(head: Any) -> str | None:
    """What keeps a line from being the first of a file."""
    found = head.get("format") if isinstance(head, dict) and head.get("kind") == "log" else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if found == FORMAT:
        return None
    told = "says no format" if found is None else f"is of format {found}"
    return f"a log must be of format {FORMAT}, this one {told}: another version of longcat-dora wrote it"


def read_events(path: Path | str) -> LogReader:
    """Return the events of a log folder or file; iterating may raise.

    A last line that a crash tore is left out, and counted in `torn_bytes`.

    Raises:
        LongcatDoraError: There is no log; or, while it is read, a line is not what was written: the error
            names file and line.
    """
    return LogReader(path)


def read_trajectories(folder: Path | str) -> Iterator[Trajectory]:
    """Yield every finished trajectory of a log folder, trained on or not, in order.

    Raises:
        LongcatDoraError: There is no log, or a trajectory is not what was written.
    """
    log = LogReader(folder)
    reader = PayloadReader(log.folder)
    try:
        for event in log:
            if event["kind"] == "produced" and "payload" in event:
                yield Trajectory.from_bytes(reader.read(Payload(*event["payload"])))
    finally:
        reader.close()


class EventLog:
    """Appends to a log; opening an existing one reads it whole, and cuts off a last line that a crash tore.

    Each event is given the seconds since the log was opened, as `at`; the clock cannot be set back.

    Args:
        folder: Of the log.
        visit: Is given each event that is there already.
        lock: Of the folder; taken here when absent.
        segment_bytes: Of a file, after which another one is begun.

    Raises:
        LongcatDoraError: Another process writes to the folder, or the log is damaged: then nothing was cut.
    """

    def __init__(
        self,
        folder: Path,
        *,
        visit: Callable[[Event], None] | None = None,
        lock: FolderLock | None = None,
        segment_bytes: int = 64 * 2**20,
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
        try:
            self._recall(visit)
        except BaseException:
            self._lock.close()
            raise
        self._opened = time.monotonic()

    def _recall(self, visit: Callable[[Event], None] | None) -> None:
        """Read what is there, heal its end, and open the last file."""
        full = sorted(self.folder.glob(_FULL))
        file = self.folder / EVENTS
        if full or file.exists():
            reader = LogReader(self.folder)
            for event in reader:
                self.num_before += 1
                if visit is not None:
                    visit(event)
            self.torn_bytes, place = reader.torn_bytes, reader.place
            if place is not None:
                self._chain = place.chain
                self._end = place.end if place.file == file else 0
            if self.torn_bytes:
                os.truncate(file, self._end)
        self._number = len(full)
        if full:
            self._number = int(full[-1].stem.removeprefix("events-")) + 1
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
        (self.folder / EVENTS).rename(self.folder / f"events-{self._number:06d}.jsonl")
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
        """Wait until all that was appended is on the disk; may be called from another thread."""
        full, self._full = self._full, []
        for file in full:
            os.fdatasync(file)
            os.close(file)
        os.fdatasync(self._events)
        if self._has_new_names:
            self._has_new_names = False
            sync_folder(self.folder)

    def close(self) -> None:
        """Close the files, and let go of the folder."""
        for file in [*self._full, self._events]:
            os.close(file)
        self._full = []
        self._lock.close()
