"""The command `longcat-noise`: certify tasks, show an episode, report on attempts, list the kinds.

It reads plain JSONL and imports nothing but what `--world module:factory` names: a function that
takes a task's JSON object and returns its environment.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._certify import Certificate, World, certify
from ._contract import Book
from ._measure import measure, read_attempts
from ._noise import TOOL_KINDS, USER_KINDS, NoiseConfig
from ._page import page
from ._recorded import RecordedWorld
from ._show import show
from ._task import NoiseTask, read_jsonl
from ._written import Written
from .tools import TOOLS
from .users import USERS


class UsageError(Exception):
    """What is wrong with the command, in words for whoever typed it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 if tasks were refused, 2 for mistakes."""
    options = _parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, ValueError) as error:
        print(f"longcat-noise: {error}", file=sys.stderr)
        return 2


def _certify(options: argparse.Namespace) -> int:
    book, tasks = _read(options.files)
    world, written = _world(options.world, book), _written(options.written)
    reasons: Counter[str] = Counter()
    turns = 0
    for task in tasks:
        for draw in range(options.draws):
            found = certify(
                task, _config(options), episode=f"{task.id}:{draw}", book=book, world=world,
                max_turns=options.max_turns, max_tokens=options.max_tokens, written=written,
            )  # fmt: skip
            print(found.to_json())
            if isinstance(found, Certificate):
                turns = max(turns, found.turns)
            else:
                reasons[found.reason] += 1
    num = len(tasks) * options.draws
    refused = sum(reasons.values())
    print(f"{num - refused} of {num} certified, at most {turns} turns", file=sys.stderr)
    for reason, times in reasons.most_common(5):
        print(f"refused {times}: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _show(options: argparse.Namespace) -> int:
    book, tasks = _read(options.files)
    chosen = next((task for task in tasks if task.id == options.task), None)
    if chosen is None:
        some = ", ".join(task.id for task in tasks[:5])
        raise UsageError(f"there is no task {options.task!r}; there are {some}")
    world, config, episode = _world(options.world, book), _config(options), f"{chosen.id}:0"
    written = _written(options.written)
    found = certify(chosen, config, episode=episode, book=book, world=world, written=written,
                    max_turns=options.max_turns, max_tokens=options.max_tokens)  # fmt: skip
    allowance = found.allowance if isinstance(found, Certificate) else None
    told = "certified" if isinstance(found, Certificate) else f"refused: {found.reason}"
    print(asyncio.run(show(chosen, config, episode=episode, book=book, world=world,
                           allowance=allowance, written=written)))  # fmt: skip
    print(told)
    return 0 if isinstance(found, Certificate) else 1


def _report(options: argparse.Namespace) -> int:
    attempts, num_invalid = read_attempts(_lines(options.attempts))
    if not attempts:
        raise UsageError(f"{options.attempts} must hold attempts, got none")
    book = read_jsonl(_lines(options.contracts))[0] if options.contracts else Book()
    rows = measure(attempts, book)
    if options.page:
        _write(options.page, page(rows, num_invalid=num_invalid))
    print(json.dumps({"invalid": num_invalid, "levels": rows}, ensure_ascii=False, indent=1))
    return 0


def _kinds(options: argparse.Namespace) -> int:
    print(f"{'kind':14} {'source':7} {'form':9} {'lasts':10} {'on':27} survived by")
    for kind in TOOLS.values():
        form = "explicit" if kind.is_explicit else "implicit"
        lasts = "permanent" if kind.is_permanent else "transient"
        on = ", ".join(sorted(kind.roles))
        print(f"{kind.name:14} {'tool':7} {form:9} {lasts:10} {on:27} {kind.survival}")
    for one in USERS.values():
        form = "explicit" if one.is_explicit else "implicit"
        on = "the opening" if one.is_deferring else "every turn"
        print(f"{one.name:14} {'user':7} {form:9} {'transient':10} {on:27} {one.survival}")
    return 0


def _config(options: argparse.Namespace) -> NoiseConfig:
    kinds: list[str] = [*TOOL_KINDS, *USER_KINDS]
    if options.kinds != "all":
        kinds = [kind for kind in options.kinds.split(",") if kind]
    for kind in kinds:
        if kind not in (*TOOL_KINDS, *USER_KINDS):
            raise UsageError(f"a kind must be among those of `longcat-noise kinds`, got {kind!r}")
    return NoiseConfig(
        level=options.level, seed=options.seed, max_per_tool=options.max_per_tool,
        tool_kinds=tuple(kind for kind in kinds if kind in TOOL_KINDS),
        user_kinds=tuple(kind for kind in kinds if kind in USER_KINDS),
    )  # fmt: skip


def _read(files: Sequence[Path]) -> tuple[Book, list[NoiseTask]]:
    book, tasks = read_jsonl(line for file in files for line in _lines(file))
    if not tasks:
        raise UsageError(f"{', '.join(map(str, files))} must hold tasks with a chain, got none")
    return book, tasks


def _written(file: Path | None) -> Written:
    return Written() if file is None else Written.read(_lines(file))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from None


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error}") from None


def _world(name: str | None, book: Book) -> World:
    """Return what makes a task's environment."""
    if name is None:

        def recorded(task: NoiseTask) -> Any:
            return RecordedWorld(task, book)

        return recorded
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--world must be module:factory, got {name!r}: {error}") from None

    def made(task: NoiseTask) -> Any:
        return factory(task.raw)

    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longcat-noise", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    certify_ = commands.add_parser("certify", help="a certificate or a refusal, one line a draw")
    certify_.add_argument("--draws", type=int, default=1, help="draws of noise for each task")
    certify_.set_defaults(run=_certify)
    show_ = commands.add_parser("show", help="one episode beside its noisy form")
    show_.add_argument("task", metavar="TASK", help="id of the task")
    show_.set_defaults(run=_show)
    for command in (certify_, show_):
        command.add_argument("files", nargs="+", type=Path, metavar="JSONL",
                             help="contracts and tasks")  # fmt: skip
        command.add_argument("--world", help="module:factory that makes a task's environment")
        command.add_argument("--written", type=Path, metavar="JSONL",
                             help="turns that a model wrote: kind, text, written")  # fmt: skip
        command.add_argument("--level", type=float, default=0.3)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--kinds", default="all", help="names with commas between; all")
        command.add_argument("--max-per-tool", type=int, default=2)
        command.add_argument("--max-turns", type=int, help="messages of the agent")
        command.add_argument("--max-tokens", type=int)
    report = commands.add_parser("report", help="measures over attempts, as JSON")
    report.add_argument("attempts", type=Path, metavar="JSONL")
    report.add_argument("--contracts", type=Path, help="JSONL of contracts")
    report.add_argument("--page", type=Path, help="HTML file to write")
    report.set_defaults(run=_report)
    kinds = commands.add_parser("kinds", help="the taxonomy")
    kinds.set_defaults(run=_kinds)
    return parser


if __name__ == "__main__":
    sys.exit(main())
