"""One stage of a finished run once more, with a part of it replaced, and what the audit says then.

That takes seconds to ten each, and none looks at another: they are run one after the other in a
process beside the tests, and a test waits for its own.
"""

import contextlib
import json
import multiprocessing
import shutil
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import sabotage
from longcat_cli.audit import checks_of
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.processes import Pool, worker_pool
from longcat_cli.train import stages_of
from rich.console import Console

LONGEST_S = 900
"""Until one has its turn and is done, on the busiest machine."""


@dataclass(frozen=True, slots=True)
class Case:
    """What stands in place of what."""

    stage: str
    target: str
    """What is replaced, under `longcat_cli.stages`."""
    replacement: str
    """Its name in `sabotage`."""
    complaints: tuple[str, ...] = ()
    """What the audit must say, among other things; nothing at all if there is none."""
    changes: tuple[tuple[str, object], ...] = ()
    """Of the recipe, so that it is soon done: key and value."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the audit said of a stage, and its facts."""

    lines: list[str]
    facts: dict[str, object]


def run_again(trained: Path, scratch: Path, case: Case) -> Told:
    """Run the stage in a copy of the trained folder, and audit it."""
    shutil.copytree(trained, scratch)
    _change(scratch / "run.json", case.changes)
    folder = RunFolder.open(scratch)
    _forget(folder, case.stage)
    display = Display([case.stage], console=Console(quiet=True))
    with mock.patch(f"longcat_cli.stages.{case.target}", getattr(sabotage, case.replacement)):
        facts = stages_of(folder.recipe)[case.stage](folder, display)
    folder.mark_done(case.stage, facts)
    lines = checks_of(folder)[case.stage](folder, 24)
    shutil.rmtree(scratch)
    return Told(lines, facts)


def _change(file: Path, changes: Iterable[tuple[str, object]]) -> None:
    record = json.loads(file.read_text())
    for key, value in changes:
        section, _, name = key.partition(".")
        assert name in record["recipe"][section], key
        record["recipe"][section][name] = value
    file.write_text(json.dumps(record))


def _forget(folder: RunFolder, stage: str) -> None:
    """Take away what a stage left."""
    left = {
        "grow": [folder.path / "environments"],
        "cold_start": [folder.cold_start, folder.path / "cold_start.state"],
        "expert-shop": [folder.expert("shop")],
        "fuse": [folder.merged, folder.fused],
        "evaluate": [folder.path / "evaluation.part.json", folder.path / "evaluation.json"],
        "report": [folder.path / "report.html"],
    }
    (folder.path / "stages" / f"{stage}.json").unlink()
    for path in left[stage]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class Beside:
    """Runs cases in a process beside this one."""

    def __init__(self, cases: Iterable[Case], place: Path) -> None:
        self._cases, self._place = list(cases), place
        self._told: dict[Case, Future[Told]] = {}
        self._open = contextlib.ExitStack()

    def begin(self, trained: Path) -> None:
        """Begin all of them, as soon as there is what they start from."""
        if self._cases:
            pool: Pool = self._open.enter_context(worker_pool(1))
            for number, case in enumerate(self._cases):
                scratch = self._place / str(number)
                self._told[case] = pool.submit(run_again, trained, scratch, case)

    def told_of(self, case: Case) -> Told:
        """Wait for one; raise what was raised in it."""
        return self._told[case].result(LONGEST_S)

    def stop(self) -> None:
        """End what nobody waits for any more."""
        if not all(future.done() for future in self._told.values()):
            for child in multiprocessing.active_children():
                child.kill()
        self._open.close()
