"""Archive what of a log is trained through.

Its oldest files, and the payload files that nothing else needs.

A file is trained through when no step in it or before it can be undone any more (by a checkpoint
that is kept, or by a restore that comes later in the log), and nothing in it can be used again.
What is open still at its end goes into the summary (`_log/summary.py`), from which the rest is read
on.

The order keeps every crash harmless: the summary is written, the log says so, then files go, oldest
first.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from longcat_dora._log import events as ev
from longcat_dora._log.check import Checker
from longcat_dora._log.events import Event
from longcat_dora._log.lines import FULL, number_of
from longcat_dora._log.lock import FolderLock
from longcat_dora._log.log import EventLog
from longcat_dora._log.payloads import sync_folder
from longcat_dora._log.reader import LogReader
from longcat_dora._log.summary import (
    FORMAT,
    SUMMARIES,
    ArchivedFile,
    Counts,
    Head,
    OpenGroup,
    Summary,
    digest_of_file,
    encode_line,
    write_summary,
)
from longcat_dora._types import LongcatDoraError

from .recover import RecoveryState
from .survey import NEVER, Survey, survey_of


@dataclass(slots=True)
class Archivable:
    """What may go."""

    folder: Path
    before: int
    """Number of the first file of the log that stays."""
    files: list[Path]
    """Of the log, oldest first."""
    payloads: list[Path]

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(path.stat().st_size for path in [*self.files, *self.payloads])

    def describe(self) -> str:
        """Say in a line or two what may go."""
        if not self.files and not self.payloads:
            return f"nothing of {self.folder} is trained through: its newest part always stays"
        return (
            f"trained through: {len(self.files)} parts of the log before number {self.before}, and"
            f" {len(self.payloads)} files of trajectories; {self.num_bytes / 2**20:,.1f} MiB"
        )


def find_archivable(folder: Path) -> Archivable:
    """Say what of a log is trained through; nothing is changed.

    Raises:
        LongcatDoraError: There is no log, or it is damaged.
    """
    return _plan(folder, survey_of(folder))[0]


def _plan(folder: Path, survey: Survey) -> tuple[Archivable, _Part]:
    log = LogReader(folder)
    numbers = [number for path in log.files if (number := number_of(path)) is not None]
    if not numbers:  # nothing but an empty file, or half a head
        return Archivable(folder, 0, [], []), _Part(log, 0, survey)
    before = survey.first_to_stay(numbers)
    part = _Part(log, before, survey)
    files = [path for path in sorted(folder.glob(FULL)) if (number_of(path) or 0) < before]
    needed = {name for number in numbers if number >= before for name in survey.payloads_at[number]}
    needed |= part.payloads()
    payloads = [path for path in sorted(folder.glob("payloads-*.bin")) if path.name not in needed]
    return Archivable(folder, before, files, payloads if before else []), part


class _OpenMembers:
    """Events of trajectories that are not over.

    Attributes:
        floor: No restore goes back to before this version: what was trained on before it is over.
    """

    def __init__(self) -> None:
        self.floor = NEVER
        self._of: dict[str, list[Event]] = {}
        self._trained: dict[int, list[str]] = {}
        """Version to what was trained on at it, as long as a restore may take it back."""

    def begin(self, summary: Summary) -> None:
        """Go on from what an earlier summary holds."""
        for group in summary.head["open"]:
            for event in group["events"]:
                self.read(event)

    def read(self, event: Event) -> None:
        """Take note of the next event."""
        match event["kind"]:
            case "started":
                self._of[event["trajectory"]] = [event]
            case "moved" | "produced":
                self._of[event["trajectory"]].append(event)
            case "ended":
                self._of.pop(event["trajectory"], None)
            case "evicted":
                for name in event["trajectories"]:
                    self._of.pop(name, None)
            case "committed":
                self._trained[event["version"]] = event["trajectories"]
            case "saved":
                self._settle(min([*event["kept"], self.floor]))
            case "restored":
                for version in [v for v in self._trained if v >= event["version"]]:
                    del self._trained[version]
            case _:
                pass

    def _settle(self, limit: int) -> None:
        for version in [version for version in self._trained if version < limit]:
            for name in self._trained.pop(version):
                self._of.pop(name, None)

    def of(self, names: list[str]) -> list[Event]:
        """Return the events of trajectories, in order."""
        return [event for name in names for event in self._of[name]]


class _Part:
    """Reads a log up to a file, and knows what that part leaves behind.

    It forgets what is over as it reads, so that its memory does not grow with the log.

    Args:
        log: The log.
        before: Number of the first file that is not read.
        survey: Of the whole log.
    """

    def __init__(self, log: LogReader, before: int, survey: Survey) -> None:
        self.recovery, self.members = RecoveryState(NEVER), _OpenMembers()
        self.checker, self.survey = Checker(), survey
        self.checker.log = log
        self.opened: ev.Opened | None = None
        self.saved: ev.Saved | None = None
        self.version = self.chain = 0
        self.digest: str | None = None
        if log.summary is not None:
            self._begin(log.summary)
        number = -1
        for event in log:
            if log.number >= before:
                break
            if log.number != number:
                number = log.number
                self.recovery.version = self.members.floor = survey.lowest_restore(number)
            self._read(event)
            if event["kind"] == "saved":
                lowest = min(self.version, self.members.floor) - survey.bound
                self.checker.settle(min([*event["kept"], lowest]))
            assert log.position is not None
            self.chain = log.position.chain

    def _begin(self, summary: Summary) -> None:
        head = summary.head
        self.opened, self.saved, self.chain = head["opened"], head["saved"], summary.chain
        self.version, self.digest = head["version"], head["digest"]
        self.checker.begin(summary)
        self.recovery.begin(summary)
        self.members.begin(summary)

    def _read(self, event: Event) -> None:
        self.checker.read(event)
        self.recovery.read(event)
        self.members.read(event)
        match event["kind"]:
            case "opened":
                self.opened = event
            case "published" | "restored":
                self.version, self.digest = event["version"], None
            case "weights":
                self.digest = event["digest"]
            case "saved":
                self.saved = event
            case _:
                pass

    def groups(self) -> list[OpenGroup]:
        """What is open."""
        found: list[OpenGroup] = []
        for admitted, seats, names in self.recovery.open_groups():
            events = self.members.of(names)
            found.append({"admitted": admitted, "seats": seats, "events": events})
        return found

    def payloads(self) -> set[str]:
        """Names of the files where finished members of what is open lie."""
        events = itertools.chain.from_iterable(group["events"] for group in self.groups())
        return {e["payload"][0] for e in events if e["kind"] == "produced" and "payload" in e}

    def trained(self) -> dict[str, int]:
        """Trajectory to version, of what may be used again: a run may use what is in the bound."""
        checker, oldest = self.checker, self.version - self.survey.bound
        return {
            name: version
            for name, version in checker.committed.items()
            if self.survey.reuses and version >= oldest and name not in checker.reused
        }

    def counts(self) -> Counts:
        """What the checker has counted."""
        report = self.checker.report
        return {
            "events": report.num_events, "started": report.num_started,
            "committed": report.num_committed, "ended": report.num_ended, "moved": report.num_moved,
            "masked": report.num_masked, "reused": report.num_reused,
            "writers": self.recovery.num_writers, "groups": self.recovery.num_groups,
            "reasons": dict(report.reasons),
            "staleness": {str(k): num for k, num in sorted(report.staleness.items()) if num},
        }  # fmt: skip


@contextlib.contextmanager
def hold_log(folder: Path) -> Generator[FolderLock]:
    """Keep runs away from a log while it is shown what may go, and somebody is asked.

    Raises:
        LongcatDoraError: There is no log, or a run holds it.
    """
    if folder.is_file():
        raise LongcatDoraError(f"a folder is archived, with all of its log, {folder} is a file")
    LogReader(folder)  # the lock would make a file where there is no log
    with contextlib.closing(FolderLock(folder)) as lock:
        yield lock


def archive(folder: Path, *, to: Path | None, lock: FolderLock | None = None) -> Archivable:
    """Write the summary of what is trained through, have the log say so, and move the files.

    Args:
        folder: Of the log; no run may be writing to it.
        to: A folder to move the files to; deleted when absent.
        lock: Of the folder; taken here when absent.

    Raises:
        LongcatDoraError: A run holds the folder, what would be archived has a breach, or `to`
            holds other files of these names: then nothing is changed.
    """
    log = EventLog(folder, lock=lock)  # it heals a torn end
    try:
        survey = survey_of(folder)
        found, part = _plan(folder, survey)
        if to is not None:
            _refuse_to_overwrite(found, to)
        for path in folder.glob(SUMMARIES):  # that a crash left before the log could speak of it
            if not any(f"{before:06d}-{digest}" in path.name for before, digest in survey.vouched):
                path.unlink()
        summary = LogReader(folder).summary
        if found.files and (summary is None or summary.before < found.before):
            path = _summarize(found, part, summary)
            log.append({"kind": "archived", "before": found.before, "digest": digest_of_file(path)})
            log.sync()
        for path in [*found.files, *found.payloads]:
            _move(path, to)
        for path in sorted(folder.glob(SUMMARIES))[:-1]:
            path.unlink()
        sync_folder(folder)
    finally:
        log.close()
    return found


def _summarize(found: Archivable, part: _Part, earlier: Summary | None) -> Path:
    breaches = part.checker.report.breaches
    if breaches:
        raise LongcatDoraError(
            f"only what is whole can be archived: {len(breaches)} breaches, {breaches[0]}"
        )
    if part.opened is None:
        raise LongcatDoraError(f"{found.folder} must say its bound before what is archived")
    files: list[ArchivedFile] = [] if earlier is None else earlier.head["files"]
    since = 0 if earlier is None else earlier.before
    new = [path for path in found.files if (number_of(path) or 0) >= since]
    files = [*files, *map(_archived_file, new)]
    head: Head = {
        "format": FORMAT, "before": found.before, "chain": part.chain, "files": files,
        "opened": part.opened, "version": part.version, "digest": part.digest,
        "saved": part.saved, "counts": part.counts(), "open": part.groups(),
        "trained": part.trained(),
    }  # fmt: skip
    return write_summary(found.folder, head, _admissions(LogReader(found.folder), found.before))


def _archived_file(path: Path) -> ArchivedFile:
    return {"name": path.name, "bytes": path.stat().st_size, "digest": digest_of_file(path)}


def _admissions(log: LogReader, before: int) -> Iterator[bytes]:
    """A line for each group that was admitted before a file."""
    if log.summary is not None:
        yield from (encode_line(list(line)) for line in log.summary.admissions())
    for event in log:
        if log.number >= before:
            return
        if event["kind"] == "admitted":
            yield encode_line([event["group"], event["domain"], event["task"]])


def _refuse_to_overwrite(found: Archivable, to: Path) -> None:
    """See that a folder is another one, and holds nothing of these names that is something else."""
    to.mkdir(parents=True, exist_ok=True)
    if to.samefile(found.folder):
        raise LongcatDoraError(f"old parts must be moved to another folder than the log's, {to}")
    for path in [*found.files, *found.payloads]:
        there = to / path.name
        if there.exists() and not filecmp.cmp(path, there, shallow=False):
            raise LongcatDoraError(
                f"{there} is of another log: every log needs a folder of its own"
            )


def _move(path: Path, to: Path | None) -> None:
    """Move a file, to another disk perhaps, so that it is whole in one of both places."""
    if to is not None:
        part = to / f".{path.name}.part"
        try:
            shutil.copy2(path, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(to / path.name)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LongcatDoraError(
                f"cannot write {to / path.name}: {error.strerror}; the log is whole, archive again"
            ) from error
        sync_folder(to)
    path.unlink()
