"""What several commands share: their arguments, and how figures are printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longcat_envs._fields import DomainError
from longcat_envs.history import Setting, load_setting
from longcat_envs.loaders import NAMES, ForeignSet, load_foreign
from longcat_envs.tasks import WorldTask

Commands = Any
"""What `add_subparsers` returns."""


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], words: str,
    *, domain: bool = False,
) -> argparse.ArgumentParser:  # fmt: skip
    """Add one command; it prints JSON if asked to."""
    one: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    if domain:
        one.add_argument("domain", help="name of a shipped domain, or a file")
        one.add_argument(
            "--language",
            default="en",
            metavar="CODE",
            help="in which people speak, such as zh, if the domain has such words",
        )
    one.add_argument("--json", action="store_true", help="print JSON")
    one.set_defaults(run=run)
    return one


def task_arguments(one: argparse.ArgumentParser, *, tasks: int) -> None:
    """Add which tasks are made."""
    one.add_argument("--tasks", type=count, default=tasks, metavar="N", help="how many")
    one.add_argument("--seed", type=int, default=0, help="another seed, other tasks")
    one.add_argument("--difficulty", choices=("shallow", "deep"), default="deep")


def foreign_argument(one: argparse.ArgumentParser) -> None:
    """Let a command also take tasks of other benchmarks."""
    one.add_argument("--from", dest="folder", type=Path, metavar="FOLDER",
                     help="a checkout of tau2-bench, for tau2:airline and tau2:retail")  # fmt: skip
    one.set_defaults(tasks=None, default_tasks=one.get_default("tasks"))
    one.epilog = f"Tasks of other benchmarks: {', '.join(NAMES)}; all of them unless --tasks says."


def setting_of(given: argparse.Namespace) -> Setting:
    """Return the domain that was named, with words in the language that was."""
    return load_setting(given.domain, given.language)


def foreign_of(given: argparse.Namespace) -> ForeignSet:
    """Return the foreign set that was named."""
    if given.language != "en":
        raise DomainError("--language is for our own domains")
    return load_foreign(given.domain, given.folder)


def num_tasks(given: argparse.Namespace) -> int:
    """Return how many tasks of a domain are made."""
    if given.folder is not None:
        raise DomainError("--from is for tasks of tau2, such as tau2:airline")
    return given.default_tasks if given.tasks is None else given.tasks


def count(text: str) -> int:
    """Read a number of tasks."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"a number is 0 to 1000000, got {text!r}")
    return number


def read_tasks(path: Path, setting: Setting) -> list[WorldTask]:
    """Read tasks of one domain and language from JSONL, as `grow --out` writes them.

    Raises:
        DomainError: A line is not a task of the domain.
    """
    domain, language = setting.spec.name, setting.words.language
    tasks: list[WorldTask] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            task = WorldTask.from_json(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DomainError(f"{path}:{number}:1: a line is a task as JSON: {error}") from None
        if task.domain != domain:
            raise DomainError(f"{path}:{number}:1: a task must be of {domain}, is of {task.domain}")
        if task.language != language:
            raise DomainError(f"{path}:{number}:1: a task must be in {language!r}, the language of "
                              f"this run (--language), is in {task.language!r}")  # fmt: skip
        tasks.append(task)
    return tasks


def write_tasks(path: Path | None, tasks: list[WorldTask]) -> None:
    """Write tasks as JSONL, if a path is given."""
    if path is not None:
        path.write_text("".join(task.to_json() + "\n" for task in tasks), encoding="utf-8")


def say(text: str, *, is_error: bool = False) -> None:
    """Write one line."""
    (sys.stderr if is_error else sys.stdout).write(text + "\n")


def show(given: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print figures: as JSON, or the summary and the rows that say something."""
    if given.json:
        say(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.get("summary", {}).items():
        say(f"{name:>24}  {value}")
    rows: list[dict[str, Any]] = found.get("rows", [])
    for row in rows:
        if "faults" in row and not any(row.get(name) for name in ("faults", "open")):
            continue
        say("  ".join(f"{key} {value}" for key, value in row.items()))
