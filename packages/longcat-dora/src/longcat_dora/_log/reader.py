"""Read a log: every event of its files, or an error that names file and line.

Files that were archived are not read: their summary stands for them (`summary.py`), if a line of
the log vouches for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from longcat_dora._types import LongcatDoraError, Payload, Trajectory

from .events import REQUIRED, Event, problem_of
from .lines import (
    EVENTS,
    FULL,
    LogDamagedError,
    Position,
    decode_event,
    head_problem,
    is_torn,
    number_in,
    number_of,
)
from .payloads import PayloadReader
from .summary import Summary, find_summary

_WRONG = (
    "is not what was written after the line before it; a last line that a crash tore has no end,"
    " and"
    " this one is something else. `longcat-dora repair` shows what could be kept"
)


class LogReader:
    """Reads a log folder, or one of its files; iterate over it as often as you like.

    Attributes:
        folder: The payloads lie there.
        summary: Of files that were archived, in their stead; a file alone has none.
        torn_bytes: After an iteration: of a last line that was not finished.
        first: Number of the first file that is read; more than 0 if earlier ones are elsewhere.
        number: Of the file that was read last.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self._is_whole = path.is_dir()
        self.folder = path if self._is_whole else path.parent
        self.files = _files(path)
        self.summary: Summary | None = None
        self.torn_bytes = self.first = self.number = 0
        self._at: tuple[Path, int, int, int] | None = None
        """As `Position` has it."""
        if self._is_whole:
            self.summary = find_summary(path, number_of(self.files[0]))
        if self.summary is not None:
            before = self.summary.before
            self.files = [
                f for f in self.files if f.name == EVENTS or (number_of(f) or 0) >= before
            ]

    @property
    def has_end(self) -> bool:
        """Whether the file that a run appends to is there, of a whole log."""
        return not self._is_whole or self.files[-1].name == EVENTS

    @property
    def position(self) -> Position | None:
        """Of the last line that was read."""
        return None if self._at is None else Position(*self._at)

    def __iter__(self) -> Iterator[Event]:
        self.torn_bytes, self._at = 0, None
        summary = self.summary
        is_vouched_for = summary is None
        for file in tuple(self.files):
            if summary is None:
                yield from self._read(file)
                continue
            for event in self._read(file):
                if event["kind"] == "archived":
                    is_vouched_for |= summary.is_meant_by(event)
                yield event
        if summary is not None and not is_vouched_for:
            raise LogDamagedError(
                summary.path, 1, 0, "is not the summary that the log says its archived parts left"
            )

    def _read(self, file: Path) -> Iterator[Event]:
        with file.open("rb") as stream:
            head = stream.readline()
            for earlier in self._renamed_meanwhile(file, head):
                yield from self._read(earlier)
            chain, end = self._read_head(file, head) if head else 0, len(head)
            if not chain:
                return
            for number, line in enumerate(stream, start=2):
                found = decode_event(line, chain)
                if found is None:
                    self._take_torn(file, number, end, line, chain)
                    return
                event, chain = found
                try:  # here and not in a function: half of what is asked of a line is asked here
                    is_event = event.keys() >= REQUIRED[event["kind"]]
                except (TypeError, KeyError, AttributeError):
                    is_event = False
                if not is_event:
                    raise LogDamagedError(file, number, end, problem_of(event) or "is no event")
                end += len(line)
                self._at = (file, number, end, chain)
                yield event

    def _renamed_meanwhile(self, file: Path, head: bytes) -> list[Path]:
        """List files that a run has filled since they were listed: they come before its newest."""
        end = number_in(head)
        if not self._is_whole or file.name != EVENTS or end is None:
            return []
        begin = self.number + 1 if self._at else self.summary.before if self.summary else 0
        found = [
            path
            for path in sorted(self.folder.glob(FULL))
            if path not in self.files and begin <= (number_of(path) or 0) < end
        ]
        self.files[-1:-1] = found
        return found

    def _read_head(self, file: Path, line: bytes) -> int:
        """Read a file's first line; return its checksum, or 0 if a crash tore it."""
        chain = self._chain_before(line)
        found = decode_event(line, chain)
        if found is None:
            self._take_torn(file, 1, 0, line, chain)
            return 0
        problem = head_problem(found[0])
        if problem is not None:
            raise LogDamagedError(file, 1, 0, problem)
        self.number = found[0]["number"]
        if file == self.files[0]:
            self.first = self.number
        self._at = (file, 1, len(line), found[1])
        return found[1]

    def _take_torn(self, file: Path, number: int, end: int, line: bytes, chain: int) -> None:
        """Note a last line that a crash tore.

        Anything else is damage, and so is that in a full file.
        """
        is_last = file == self.files[-1] and not file.match(FULL)
        if not is_last or not is_torn(line, chain):
            raise LogDamagedError(file, number, end, _WRONG)
        self.torn_bytes = len(line)

    def _chain_before(self, line: bytes) -> int:
        """The checksum that a file's first line goes on from.

        Of a file that is elsewhere its summary says it; where there is none, the line itself.
        """
        if self._at is not None:
            return self._at[3]
        if self.summary is not None:
            return self.summary.chain
        try:
            return int(json.loads(line)["event"].get("chain", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob(FULL))
        if (path / EVENTS).is_file() or not files:
            files.append(path / EVENTS)
    else:
        files = [path]
    if not files[0].is_file():
        raise LongcatDoraError(f"an event log must be a file or a folder with {EVENTS}: {path}")
    return files


def read_events(path: Path | str) -> LogReader:
    """Return the events of a log folder or file; iterating may raise.

    A last line that a crash tore is left out, and counted in `torn_bytes`.

    Raises:
        LongcatDoraError: There is no log; or, while it is read, a line is not what was written: the
            error names file and line.
    """
    return LogReader(path)


def read_trajectories(folder: Path | str) -> Iterator[Trajectory]:
    """Yield every finished trajectory of a log folder, trained on or not, in order.

    Of parts that were archived, those that are not trained on yet.

    Raises:
        LongcatDoraError: There is no log, or a trajectory is not what was written.
    """
    log = LogReader(folder)
    reader = PayloadReader(log.folder)
    try:
        for events in (() if log.summary is None else log.summary.events(), log):
            for event in events:
                if event["kind"] == "produced" and "payload" in event:
                    yield Trajectory.from_bytes(reader.read(Payload(*event["payload"])))
    finally:
        reader.close()
