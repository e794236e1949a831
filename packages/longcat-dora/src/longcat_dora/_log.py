"""The event log: append-only, checksummed, and healed after a crash.

One JSON object a line: `{"crc": ..., "event": {...}}`. Bulk data (trajectories) goes to a second
file; the event that owns it holds its offset and length. A line whose checksum is wrong or that is
torn ends the log: what follows was never acknowledged and is cut off when the log is opened again.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ._types import LongcatDoraError, Trajectory

EVENTS, PAYLOADS = "events.jsonl", "payloads.bin"
Event = dict[str, Any]


def encode_event(event: Event) -> bytes:
    """Return the line of an event."""
    body = json.dumps(event, separators=(",", ":"))
    return f'{{"crc":{zlib.crc32(body.encode())},"event":{body}}}\n'.encode()


def decode_event(line: bytes) -> Event | None:
    """Read a line; `None` if it is torn or altered."""
    head, found, rest = line.partition(b',"event":')
    if not found or not head.startswith(b'{"crc":') or not rest.endswith(b"}\n"):
        return None
    body = rest[:-2]
    if head[len(b'{"crc":') :] != str(zlib.crc32(body)).encode():
        return None
    return json.loads(body)


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
        LongcatDoraError: There is no log.
    """
    with (folder / PAYLOADS).open("rb") if (folder / PAYLOADS).is_file() else io.BytesIO() as bulk:
        for event in read_events(folder):
            if event["kind"] == "produced":
                yield Trajectory.from_bytes(_payload(bulk, event))


def _payload(bulk: BinaryIO, event: Event) -> bytes:
    offset, length = event["payload"]
    bulk.seek(offset)
    return bulk.read(length)


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
    """Appends to a log; opening an existing one heals its tail and continues it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        end = 0
        if (folder / EVENTS).exists():
            for _, end in _read(folder):  # noqa: B007 - the last value is what is wanted
                pass
            os.truncate(folder / EVENTS, end)
        self._events = (folder / EVENTS).open("ab")
        self._payloads = (folder / PAYLOADS).open("ab")

    def append(self, event: Event, payload: bytes | None = None) -> None:
        """Write one event; its payload is on its way to the disk before the event is."""
        if payload is not None:
            offset = self._payloads.seek(0, os.SEEK_END)
            self._payloads.write(payload)
            self._payloads.flush()
            event = {**event, "payload": [offset, len(payload)]}
        self._events.write(encode_event(event))
        self._events.flush()

    def read_payload(self, event: Event) -> bytes:
        """Return the bulk data of an event."""
        with (self.folder / PAYLOADS).open("rb") as bulk:
            return _payload(bulk, event)

    def close(self) -> None:
        """Close both files."""
        self._events.close()
        self._payloads.close()
