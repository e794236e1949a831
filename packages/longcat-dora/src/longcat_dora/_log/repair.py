"""Cut a damaged log back to what can be believed.

A person has seen what that loses, and has said yes.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat_dora._types import LongcatDoraError

from .lines import EVENTS, LogDamagedError, encode_event
from .lock import FolderLock
from .payloads import sync_folder
from .reader import LogReader

_CRC = re.compile(rb'\{"crc":(\d+),"event":')


@dataclass(slots=True)
class Damage:
    """What is wrong with a log, and what cutting there loses."""

    folder: Path
    error: LogDamagedError
    version: int | None
    """That the log has reached before."""
    num_before: int
    """Events that are kept."""
    num_behind: int = 0
    """Lines behind the bad one."""
    num_whole: int = 0
    """Of these, what can still be read."""
    lost: Counter[str] = field(default_factory=Counter[str])
    """Kind to events among these."""
    files: list[Path] = field(default_factory=list[Path])
    """Files of the log behind the bad one."""
    checkpoints: list[Path] = field(default_factory=list[Path])
    """Newer than what is kept."""

    def describe(self) -> str:
        """Say in a few lines what a repair does."""
        lines = [
            f"{self.error}",
            f"kept: {self.num_before} events before it, up to version {self.version or 0}",
            self._describe_lost(),
        ]
        lines += [f"moved aside: {path}, which is newer" for path in self.checkpoints]
        lines.append(f"The damaged files stay beside it, as {self.error.file.name}.damaged")
        return "\n".join(lines)

    def _describe_lost(self) -> str:
        told = f"{self.lost['committed']} steps, {self.lost['produced']} finished trajectories"
        return (
            f"lost: this line, and {self.num_behind} behind it. There are {self.num_whole} whole"
            " lines behind it:"
            f" {told}"
        )


def find_damage(folder: Path) -> Damage | None:
    """Read a log; return what is wrong with it, `None` if nothing is.

    Raises:
        LongcatDoraError: There is no log.
    """
    if folder.is_file():
        raise LongcatDoraError(f"a folder is repaired, with all of its log, {folder} is a file")
    log, num = LogReader(folder), 0
    version: int | None = None
    try:
        for event in log:
            num += 1
            if event["kind"] == "published" or event["kind"] == "restored":
                version = event["version"]
        return None
    except LogDamagedError as error:
        if error.file not in log.files:  # a summary: what it stood for must be put back
            raise
        damage = Damage(folder, error, version, num)
    at = log.files.index(damage.error.file)
    damage.files = log.files[at + 1 :]
    _count_behind(damage, [damage.error.file, *damage.files])
    checkpoints = folder.parent / "checkpoints"
    for path in sorted(checkpoints.glob("step-*")):
        name = path.name.removeprefix("step-")
        if name.isdigit() and int(name) > (version or 0):
            damage.checkpoints.append(path)
    return damage


def _count_behind(damage: Damage, files: list[Path]) -> None:
    chain: int | None = None
    for number, file in enumerate(files):
        with file.open("rb") as stream:
            if not number:
                stream.seek(damage.error.offset)
                chain = _crc_of(stream.readline())
            for line in stream:
                damage.num_behind += 1
                event = _event_of(line, chain)
                if event is not None:
                    damage.num_whole += 1
                    damage.lost[event.get("kind", "")] += 1
                chain = _crc_of(line)


def _crc_of(line: bytes) -> int | None:
    """What a line says its checksum is; the next one goes on from there."""
    found = _CRC.match(line)
    return None if found is None else int(found[1])


def _event_of(line: bytes, chain: int | None) -> dict[str, Any] | None:
    found = _CRC.match(line)
    if found is None:
        return None
    body = line[found.end() : -2]
    if chain is not None and zlib.crc32(body, chain) != int(found[1]):
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None


def repair(damage: Damage) -> None:
    """Cut the log before the bad line.

    The damaged files and newer checkpoints are moved aside, not removed.

    Raises:
        LongcatDoraError: A run holds the folder, or the damage is at the very beginning of the log.
    """
    lock = FolderLock(damage.folder)
    try:
        file = damage.error.file
        if damage.error.offset == 0 and file.name == EVENTS and not damage.num_before:
            raise LongcatDoraError(f"nothing of {file} can be kept: move the folder away")
        for path in [file, *damage.files]:
            shutil.copy2(path, _aside(path))
        for path in damage.files:
            path.unlink()
        with file.open("r+b") as stream:
            stream.truncate(damage.error.offset)
        if file.name != EVENTS:
            file.rename(damage.folder / EVENTS)
        _vouch_again(damage.folder)
        for path in damage.checkpoints:
            path.rename(_aside(path.with_name(f"damaged-{path.name}")))
        sync_folder(damage.folder)
    finally:
        lock.close()


def _vouch_again(folder: Path) -> None:
    """Say of archived files' summary what a line that is lost now may have said."""
    log = LogReader(folder)
    if log.summary is None:
        return
    with contextlib.suppress(LogDamagedError):  # that nothing vouches for it
        for _ in log:
            pass
    position = log.position
    assert position is not None
    event = {"kind": "archived", "before": log.summary.before, "digest": log.summary.digest}
    with position.file.open("ab") as stream:
        stream.write(encode_event(event, position.chain)[0])


def _aside(path: Path) -> Path:
    number, found = 0, path.with_name(f"{path.name}.damaged")
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.damaged-{number}")
    return found
