"""The `longcat-envs` command: look at domains, grow and audit tasks, draw, play, begin one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ._spec import DomainError
from .attacks import agents_domain, audit_domain
from .drawing import draw
from .figures import check_figures, grow_figures, list_rows
from .graph import Graph, contracts
from .history import load_setting
from .playing import play_in_terminal
from .tasks import TaskMaker


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given) or 0)
    except (DomainError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longcat-envs", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "list", _list, "list the domains that ship with the package")
    for name, run, words in (
        ("audit", _audit, "attack freshly made tasks and print what is found"),
        ("agents", _agents, "run careless and careful agents on admitted tasks"),
        ("grow", _grow, "grow environments; print figures about them, or write them"),
    ):
        command = _command(commands, name, run, words, domain=True)
        command.add_argument("--tasks", type=_count, default=20, metavar="N", help="how many")
        command.add_argument("--seed", type=int, default=0, help="another seed, other tasks")
        command.add_argument("--difficulty", choices=("shallow", "deep"), default="deep")
        if name == "grow":
            command.add_argument("--out", type=Path, metavar="FILE", help="write tasks as JSONL")
    _command(commands, "check", _check, "check a domain file and its words", domain=True)
    graph = _command(commands, "graph", _graph, "draw the tool graph", domain=True)
    graph.add_argument("--out", type=Path, metavar="FILE.svg", help="default: DOMAIN.svg")
    chains = _command(commands, "contracts", _contracts, "print contracts and chains", domain=True)
    chains.add_argument("--tasks", type=_count, default=0, metavar="N", help="with N chains")
    chains.add_argument("--seed", type=int, default=0)
    play = _command(commands, "play", _play, "be the agent of one task", domain=True)
    play.add_argument("--seed", type=int, default=0)
    play.add_argument("--difficulty", choices=("shallow", "deep"), default="deep")
    new = _command(commands, "new-domain", _new, "begin a domain of your own")
    new.add_argument("name")
    return parser


def _command(
    commands: Any, name: str, run: Any, words: str, *, domain: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    if domain:
        command.add_argument("domain", help="name of a shipped domain, or a file")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"a number of tasks is 0 to 1000000, got {text!r}")
    return number


def _print(given: argparse.Namespace, found: dict[str, Any]) -> None:
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.get("summary", {}).items():
        print(f"{name:>24}  {value}")
    rows: list[dict[str, Any]] = found.get("rows", [])
    shown = [row for row in rows if row.get("faults") or "faults" not in row]
    for row in shown:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def _list(given: argparse.Namespace) -> None:
    _print(given, {"rows": list_rows()})


def _audit(given: argparse.Namespace) -> int:
    found = audit_domain(
        load_setting(given.domain), num_tasks=given.tasks, seed=given.seed,
        difficulty=given.difficulty,
    )  # fmt: skip
    _print(given, found)
    return 0


def _agents(given: argparse.Namespace) -> None:
    _print(given, agents_domain(
        load_setting(given.domain), num_tasks=given.tasks, seed=given.seed,
        difficulty=given.difficulty,
    ))  # fmt: skip


def _grow(given: argparse.Namespace) -> None:
    setting = load_setting(given.domain)
    tasks, summary = grow_figures(
        setting, num_tasks=given.tasks, seed=given.seed, difficulty=given.difficulty
    )
    if given.out is not None:
        given.out.write_text("".join(task.to_json() + "\n" for task in tasks), encoding="utf-8")
    _print(given, {"summary": summary})


def _check(given: argparse.Namespace) -> int:
    summary = check_figures(load_setting(given.domain))
    _print(given, {"summary": summary})
    return 0


def _graph(given: argparse.Namespace) -> None:
    setting = load_setting(given.domain)
    path = given.out or Path(f"{setting.spec.name}.svg")
    path.write_text(draw(Graph(setting.machine.tools), setting.spec.title), encoding="utf-8")
    print(f"wrote {path}")


def _contracts(given: argparse.Namespace) -> None:
    setting = load_setting(given.domain)
    for line in contracts(setting.machine.tools):
        print(line)
    maker = TaskMaker(setting, seed=given.seed)
    for _ in range(given.tasks):
        task = next(maker)
        chain = [{"tool": step.tool, "arguments": step.arguments} for step in task.golden]
        print(json.dumps({"task": task.id, "chain": chain}, ensure_ascii=False))


def _play(given: argparse.Namespace) -> int:
    setting = load_setting(given.domain)
    task = next(TaskMaker(setting, seed=given.seed, difficulty=given.difficulty))
    return play_in_terminal(setting, task)


def _new(given: argparse.Namespace) -> int:
    name: str = given.name
    if not name.isidentifier() or name != name.lower():
        print(f"error: a domain has a name in small letters, got {name!r}", file=sys.stderr)
        return 2
    folder = resources.files("longcat_envs") / "domains"
    for suffix in (".world", ".words.en"):
        path = Path(name + suffix)
        if path.exists():
            print(f"error: {path} exists already", file=sys.stderr)
            return 2
        path.write_text((folder / f"template{suffix}.txt").read_text("utf-8"), encoding="utf-8")
        print(f"wrote {path}")
    print(f"next: longcat-envs check {name}.world; longcat-envs play {name}.world")
    return 0


if __name__ == "__main__":
    sys.exit(main())
