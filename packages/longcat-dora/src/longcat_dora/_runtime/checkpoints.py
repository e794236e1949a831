"""Checkpoints of a run: written whole or not at all, known by their checksums, the newest few kept.

checkpoints/step-000030/      what `Trainer.save` wrote
checkpoints/.step-000030.json its files' sizes and checksums
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from longcat_dora._log.payloads import sync_folder
from longcat_dora._types import LongcatDoraError, Trainer

_CHUNK = 2**20


class Checkpoints:
    """The checkpoints of one run's folder.

    Its methods take as long as the trainer does: call them in a thread.
    """

    def __init__(self, folder: Path, *, num_kept: int) -> None:
        self.folder, self.num_kept = folder / "checkpoints", num_kept

    @property
    def versions(self) -> list[int]:
        """Those that are there, oldest first.

        Raises:
            OSError: The folder cannot be read, or is none; it is not taken for an empty one.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        numbers = [name.removeprefix("step-") for name in names]
        found = sorted(int(number) for number in numbers if number.isdecimal())
        return [version for version in found if self._of(version).name in names]

    def save(self, trainer: Trainer, version: int) -> bool:
        """Write a checkpoint, if it is not there; return whether it was written."""
        final = self._of(version)
        if final.exists():
            return False
        part = self.folder / f".part-{version:06d}"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed while it saved
        part.mkdir(parents=True)
        trainer.save(part)
        sums = _sums(part, sync=True)
        manifest = self._manifest(version)
        manifest.write_text(json.dumps(sums), encoding="utf-8")
        _sync(manifest)
        part.rename(final)
        sync_folder(self.folder)
        for old in self.versions[: -self.num_kept]:
            shutil.rmtree(self._of(old))
            self._manifest(old).unlink(missing_ok=True)
        return True

    def restore(self, trainer: Trainer) -> tuple[int, list[str]]:
        """Return the trainer to the newest checkpoint that is whole.

        Returns:
            Its version, 0 if there is none; and what is wrong with newer ones, which are moved
            aside.

        Raises:
            LongcatDoraError: There are some, and none can be restored.
        """
        problems: list[tuple[int, str, Exception | None]] = []
        for version in reversed(self.versions):
            problem, error = self._problem(version), None
            if problem is None:
                try:
                    trainer.restore(self._of(version))
                except Exception as failure:
                    problem, error = f"trainer.restore raised {failure!r}", failure
            if problem is None:
                return version, [self._move_aside(v, text) for v, text, _ in problems]
            problems.append((version, problem, error))
        if not problems:
            return 0, []
        told = "; ".join(f"{self._of(version)}: {text}" for version, text, _ in problems)
        raise LongcatDoraError(f"no checkpoint can be restored: {told}") from problems[0][2]

    def _problem(self, version: int) -> str | None:
        """What is wrong with a checkpoint's files, as far as its checksums tell."""
        manifest = self._manifest(version)
        if not manifest.is_file():
            return None  # of a run that kept none
        try:
            expected: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
            found = _sums(self._of(version), sync=False)
        except (OSError, ValueError) as error:
            return str(error)
        wrong = sorted(name for name in expected if found.get(name) != expected[name])
        return f"{wrong[0]} is not what was written" if wrong else None

    def _move_aside(self, version: int, problem: str) -> str:
        """Rename a broken checkpoint, so that a new one can take its place."""
        broken = self.folder / f"broken-{version:06d}"
        shutil.rmtree(broken, ignore_errors=True)
        self._of(version).rename(broken)
        self._manifest(version).unlink(missing_ok=True)
        return f"checkpoint {version} is broken, and is now {broken}: {problem}"

    def _of(self, version: int) -> Path:
        return self.folder / f"step-{version:06d}"

    def _manifest(self, version: int) -> Path:
        return self.folder / f".step-{version:06d}.json"


def _sums(folder: Path, *, sync: bool) -> dict[str, list[int]]:
    """Size and checksum of each file."""
    sums: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            if sync:
                sync_folder(path)
            continue
        crc = size = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
            if sync:
                os.fsync(file.fileno())
        sums[str(path.relative_to(folder))] = [size, crc]
    if sync:
        sync_folder(folder)
    return sums


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
