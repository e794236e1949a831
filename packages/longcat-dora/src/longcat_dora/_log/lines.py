"""A log's lines: each is chained to the one before by its checksum.

One JSON object a line: `{"crc": ..., "event": {...}}`. The checksum goes on from the line before,
so that a line that is altered, lost, doubled or out of its place is found.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from longcat_dora._types import LongcatDoraError

from .events import FORMAT

EVENTS = "events.jsonl"
FULL = "events-[0-9]*.jsonl"
_NUMBER = re.compile(r"events-(\d+)\.jsonl")
_encode = json.JSONEncoder(separators=(",", ":")).encode
# What `raw_decode` calls: a log has millions of lines.
_scan = cast(
    "Callable[[str, int], tuple[Any, int]]",
    json.JSONDecoder().scan_once,  # type: ignore[attr-defined]
)


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


class Position(NamedTuple):
    """Where an event lies."""

    file: Path
    line: int
    """From 1."""
    end: int
    """Bytes of the file up to the end of its line."""
    chain: int
    """Checksum of its line."""


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
    try:
        return _scan(body.decode(), 0)[0], crc
    except (StopIteration, ValueError, RecursionError):  # a checksum says nothing of what it sums
        return None


def is_torn(line: bytes, chain: int) -> bool:
    """Whether a line is what a crash leaves: without its end, and no whole line but for that."""
    return not line.endswith(b"\n") and decode_event(line[:-1] + b"\n", chain) is None


def head_problem(head: Any) -> str | None:
    """What keeps a line from being the first of a file."""
    known = cast("dict[str, Any]", head) if isinstance(head, dict) else {}
    found = known.get("format") if known.get("kind") == "log" else None
    if found == FORMAT:
        return None
    told = "says no format" if found is None else f"is of format {found}"
    return (
        f"a log must be of format {FORMAT}, this one {told}: another version of longcat-dora wrote"
        " it"
    )


def full_name(number: int) -> str:
    """Return the name of a log's file that is full."""
    return f"events-{number:06d}.jsonl"


def number_of(file: Path) -> int | None:
    """Return which file of a log this is, by its name or its head; `None` if neither says so."""
    found = _NUMBER.fullmatch(file.name)
    if found is not None:
        return int(found[1])
    try:
        with file.open("rb") as stream:
            return number_in(stream.readline())
    except OSError:
        return None


def number_in(head: bytes) -> int | None:
    """Return the number that a file's first line says, true or not."""
    try:
        number = json.loads(head)["event"]["number"]
    except (ValueError, KeyError, TypeError):
        return None
    return number if isinstance(number, int) else None
