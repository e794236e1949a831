"""The event log: append-only, checksummed, and healed after a crash.

One JSON object a line: `{"crc": ..., "event": {...}}`. Bulk data (trajectories) lies in files beside it,
one per process that samples; the event that owns it says where (`Payload`). A line whose checksum is wrong
or that is torn ends the log: what follows was never acknowledged and is cut off when the log is opened
again. Resume, audit, replay and the timeline read this log and nothing else.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longcat_dora._types import LongcatDoraError, Payload, Trajectory

from .payloads import PayloadReader

EVENTS = "events.jsonl"
Event = dict[str, Any]
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode


def encode_event(event: Event) -> bytes:
    """Return the line of an event."""
    body = _encode(event).encode()
    return b'{"crc":%d,"event":%b}\n' % (zlib.crc32(body), body)


def decode_event(line: bytes) -> Event | None:
    """Read a line; `None` if it is torn or altered."""
    head, found, rest = line.partition(b',"event":')
    body = rest[:-2]
    if not found or rest[-2:] != b"}\n" or head != b'{"crc":%d' % zlib.crc32(body):
        return None
    return _decode(body.decode())[0]


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a log folder or file, up to the first line that is not whole.

    Raises:
        LongcatDoraError: There is no log.
    """
    for event, _ in _read(path):
        yield event


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """Yield every finished trajectory of a log folder, trained on or not, in order.

    Raises:
        LongcatDoraError: There is no log, or a trajectory is not what was written.
    """
    reader = PayloadReader(folder)
    try:
        for event in read_events(folder):
            if event["kind"] == "produced":
                yield Trajectory.from_bytes(reader.read(Payload(*event["payload"])))
    finally:
        reader.close()


def _read(path: Path) -> Iterator[tuple[Event, int]]:
    file = path / EVENTS if path.is_dir() else path
    if not file.is_file():
        raise LongcatDoraError(f"an event log must be a file or a folder with {EVENTS}: {path}")
    end = 0
    with file.open("rb") as stream:
        for line in stream:
            event = decode_event(line)
            if event is None:
                return
            end += len(line)
            yield event, end


class EventLog:
    """Appends to a log; opening an existing one heals its tail and continues it.

    Each event is given the seconds since the log was opened, as `at`; the clock cannot be set back.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        end = 0
        if (folder / EVENTS).exists():
            for _, end in _read(folder):  # noqa: B007 - the last value is what is wanted
                pass
            os.truncate(folder / EVENTS, end)
        self._end = end
        self._events = os.open(
            folder / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        self._opened = time.monotonic()

    def append(self, *events: Event) -> None:
        """Write events, all of them or none.

        Raises:
            LongcatDoraError: The disk is full, say.
        """
        if not events:
            return
        at = round(time.monotonic() - self._opened, 4)
        data = memoryview(b"".join([encode_event({**event, "at": at}) for event in events]))
        try:
            length, rest = len(data), data
            while rest:
                rest = rest[os.write(self._events, rest) :]
        except OSError as error:
            os.ftruncate(self._events, self._end)
            path = self.folder / EVENTS
            raise LongcatDoraError(f"{path} must be writable: {error.strerror}") from error
        self._end += length

    def close(self) -> None:
        """Close the file."""
        os.close(self._events)
