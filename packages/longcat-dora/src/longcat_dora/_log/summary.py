"""What archived parts of a log leave behind.

What is open still, what was counted, and their digests.

archived-000005-DIGEST.jsonl stands for all files of the log before number 5: a line of JSON
(`Head`), then a line for each group that was admitted there, `[group, domain, task]`, so that tasks
that come again are passed over.

- It holds whatever a reader of the rest needs: no step before it can be undone, or used again.
- Its name says its digest, and so does an `archived` event in the rest of the log. What is altered
  is not what its name says; what is another log's, or was written anew, is not what that event
  means, and is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from .events import Admitted, Archived, Event, Opened, Saved
from .lines import LogDamagedError
from .payloads import sync_folder

FORMAT = 1
"""Of summaries."""
SUMMARIES = "archived-[0-9]*.jsonl"


class ArchivedFile(TypedDict):
    """A file of the log that was archived."""

    name: str
    bytes: int
    digest: str


class OpenGroup(TypedDict):
    """A group that is neither trained on nor evicted."""

    admitted: Admitted
    seats: list[list[int]]
    """Member, and the attempt that is next, under way or finished."""
    events: list[Event]
    """Of its members that have not ended: `started`, `moved` and `produced`, in order."""


class Counts(TypedDict):
    """What the checker had counted."""

    events: int
    started: int
    committed: int
    ended: int
    moved: int
    masked: int
    reused: int
    writers: int
    groups: int
    reasons: dict[str, int]
    staleness: dict[str, int]
    """Staleness, as JSON has it, and how many were trained on with it."""


class Head(TypedDict):
    """The first line."""

    format: int
    before: int
    """Number of the first file that is not archived."""
    chain: int
    """Checksum of the last line that is."""
    files: list[ArchivedFile]
    opened: Opened
    version: int
    digest: str | None
    """Of that version's weights, if the log has said it."""
    saved: Saved | None
    counts: Counts
    open: list[OpenGroup]
    trained: NotRequired[dict[str, int]]
    """Trajectory to the version it was sampled on, of what the rest of the log may use again."""


class Summary:
    """One that lies in a log's folder.

    Raises:
        LogDamagedError: It is none, or not what its name says.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.digest = path, digest_of_file(path)
        if self.digest != _digest_said(path):
            raise LogDamagedError(
                path, 1, 0, f"its digest is {self.digest}, which its name does not say"
            )
        with path.open("rb") as file:
            self.head = cast("Head", json.loads(file.readline()))
        if self.head["format"] != FORMAT:
            raise LogDamagedError(
                path,
                1,
                0,
                f"must be of format {FORMAT}, this one is of format {self.head['format']}",
            )
        self.before, self.chain = self.head["before"], self.head["chain"]

    def is_meant_by(self, event: Archived) -> bool:
        """Whether this is what an event of the log says that archived files left."""
        return (event["before"], event["digest"]) == (self.before, self.digest)

    def events(self) -> Iterator[Event]:
        """Yield the events of what is open.

        Of each group that it was admitted, and of its members.
        """
        for group in self.head["open"]:
            yield group["admitted"]
            yield from group["events"]

    def admissions(self) -> Iterator[tuple[str, str, str]]:
        """Yield group, domain and task of all that was admitted, in order."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                group, domain, task = json.loads(line)
                yield group, domain, task

    def __str__(self) -> str:
        counts = self.head["counts"]
        return (
            f"{counts['events']} events, {counts['started']} started, {counts['committed']}"
            " committed,"
            f" {counts['ended']} ended, {sum(len(g['events']) > 0 for g in self.head['open'])}"
            " groups open"
        )


def _digest_said(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def find_summary(folder: Path, first: int | None) -> Summary | None:
    """Return the summary to begin with; `first` is the number of the first file that is there.

    The least that reaches that far, since a newer one may not be in use yet. With a file whose
    number cannot be told the newest one is taken, which is then to be vouched for.
    """
    found = sorted(folder.glob(SUMMARIES))
    if first == 0 or not found:
        return None
    if first is None:
        return Summary(found[-1])
    path = next((path for path in found if path.name >= f"archived-{first:06d}"), None)
    return None if path is None else Summary(path)


def write_summary(folder: Path, head: Head, admissions: Iterable[bytes]) -> Path:
    """Write a summary, whole or not at all, and wait until it is on the disk."""
    part = folder / ".archived.part"
    with part.open("wb") as file:
        for line in chain([encode_line(head)], admissions):
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    path = folder / f"archived-{head['before']:06d}-{digest_of_file(part)}.jsonl"
    part.replace(path)
    sync_folder(folder)
    return path


def encode_line(value: Any) -> bytes:
    """Return a line of a summary."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
