"""The record of a merge under way: what was finished stays finished, whatever ends the process.

A shard is written under another name, synced, entered here with its digest, and only then renamed.
So a shard under its own name is whole and in the journal, and one that the journal names is whole
under one of its two names. A line that was cut off when the machine stopped is not in the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOURNAL = ".merge-journal.jsonl"
_READ_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Finished:
    """One shard that was written."""

    shard: str
    file_bytes: int
    sha256: str
    tensors: list[dict[str, Any]]
    """Name, moved, lost and digests of each tensor."""


class Journal:
    """The journal of one output folder; one process at a time holds it."""

    def __init__(self, folder: Path, plan_digest: str, file: int) -> None:
        self.folder, self.finished = folder, {}
        self._file = file
        self._read(plan_digest)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, plan_digest: str) -> Iterator[Journal]:
        """Begin a journal in an empty folder, or take up the one of the same plan.

        Raises:
            ValueError: The folder holds something else, or another process merges into it.
        """
        journal = folder / JOURNAL
        odd = [path.name for path in folder.iterdir() if path.name != JOURNAL]
        if odd and not journal.exists():
            raise ValueError(
                f"the output must be empty, or a merge to be resumed: {folder} holds {odd[0]}"
            )
        file = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"another process merges into {folder}") from error
            yield cls(folder, plan_digest, file)
        finally:
            os.close(file)

    def _read(self, plan_digest: str) -> None:
        text = b""
        while part := os.read(self._file, _READ_BYTES):
            text += part
        lines, rest = text.split(b"\n")[:-1], len(text) - (text.rfind(b"\n") + 1)
        if rest:  # a line that was cut off
            os.ftruncate(self._file, len(text) - rest)
            os.lseek(self._file, 0, os.SEEK_END)
        if not lines:
            self._append({"plan": plan_digest})
            sync_folder(self.folder)
            return
        records = [json.loads(line) for line in lines]
        if records[0].get("plan") != plan_digest:
            raise ValueError(
                f"{self.folder} holds a merge of other inputs or settings that was not finished: "
                "merge into another folder, or delete it"
            )
        for record in records[1:]:
            finished = Finished(**record)
            self.finished[finished.shard] = finished

    def add(self, finished: Finished) -> None:
        """Enter a shard whose bytes are on the disk under its other name."""
        self._append({name: getattr(finished, name) for name in Finished.__slots__})
        self.finished[finished.shard] = finished

    def is_whole(self, shard: str) -> bool:
        """Whether a shard was finished and its bytes are still there; puts it under its name."""
        finished = self.finished.get(shard)
        if finished is None:
            return False
        for path in (self.folder / shard, part_of(self.folder, shard)):
            if path.is_file() and not path.is_symlink() and _is_same(path, finished):
                if path.name != shard:
                    path.replace(self.folder / shard)
                return True
        return False

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)


def part_of(folder: Path, shard: str) -> Path:
    """Name of a shard while it is written."""
    return folder / f".{shard}.part"


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _is_same(path: Path, finished: Finished) -> bool:
    return path.stat().st_size == finished.file_bytes and digest_of(path) == finished.sha256
