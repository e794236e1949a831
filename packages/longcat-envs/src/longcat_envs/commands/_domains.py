"""Commands about domains: list, check, compare, graph, contracts, new-domain."""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

from longcat_envs.checks import damage_figures, tool_figures
from longcat_envs.drawing import draw
from longcat_envs.figures import check_figures, compare_figures, list_rows
from longcat_envs.graph import Graph, contracts
from longcat_envs.history import load_setting
from longcat_envs.tasks import TaskMaker

from ._common import Commands, command, count, say, setting_of, show


def register(commands: Commands) -> None:
    """Add the commands of this room."""
    command(commands, "list", _list, "list the domains that ship with the package")
    check = command(commands, "check", _check, "check a domain file and its words", domain=True)
    check.add_argument("--tools", action="store_true", help="run the generated tests of each tool")
    check.add_argument("--damage", type=count, default=0, metavar="N",
                       help="damage the file N times; print how many are noticed")  # fmt: skip
    compare = command(commands, "compare", _compare,
                      "compare the contract shapes of domains, pair by pair")  # fmt: skip
    compare.add_argument("domains", nargs="*", help="names or files; without any, all shipped ones")
    graph = command(commands, "graph", _graph, "draw the tool graph", domain=True)
    graph.add_argument("--out", type=Path, metavar="FILE.svg", help="default: DOMAIN.svg")
    chains = command(commands, "contracts", _contracts, "print contracts and chains", domain=True)
    chains.add_argument("--tasks", type=count, default=0, metavar="N", help="with N chains")
    chains.add_argument("--seed", type=int, default=0)
    new = command(commands, "new-domain", _new, "begin a domain of your own")
    new.add_argument("name")


def _list(given: argparse.Namespace) -> None:
    show(given, {"rows": list_rows()})


def _check(given: argparse.Namespace) -> int:
    setting = setting_of(given)
    if given.damage:
        show(given, damage_figures(setting, number=given.damage))
        return 0
    if given.tools:
        found = tool_figures(setting)
        show(given, found)
        return int(found["summary"]["faults"] > 0)
    show(given, {"summary": check_figures(setting)})
    return 0


def _compare(given: argparse.Namespace) -> None:
    names = given.domains or [row["domain"] for row in list_rows()]
    show(given, compare_figures([load_setting(name).machine for name in names]))


def _graph(given: argparse.Namespace) -> None:
    setting = setting_of(given)
    path = given.out or Path(f"{setting.spec.name}.svg")
    path.write_text(draw(Graph(setting.machine.tools), setting.spec.title), encoding="utf-8")
    say(f"wrote {path}")


def _contracts(given: argparse.Namespace) -> None:
    setting = setting_of(given)
    for line in contracts(setting.machine.tools):
        say(line)
    maker = TaskMaker(setting, seed=given.seed)
    for _ in range(given.tasks):
        task = next(maker)
        chain = [{"tool": step.tool, "arguments": step.arguments} for step in task.golden]
        say(json.dumps({"task": task.id, "chain": chain}, ensure_ascii=False))


def _new(given: argparse.Namespace) -> int:
    name: str = given.name
    if not name.isidentifier() or name != name.lower():
        say(f"error: a domain has a name in small letters, got {name!r}", is_error=True)
        return 2
    folder = resources.files("longcat_envs") / "domains"
    for suffix in (".world", ".words.en"):
        path = Path(name + suffix)
        if path.exists():
            say(f"error: {path} exists already", is_error=True)
            return 2
        path.write_text((folder / f"template{suffix}.txt").read_text("utf-8"), encoding="utf-8")
        say(f"wrote {path}")
    say(f"next: longcat-envs check {name}.world; longcat-envs play {name}.world")
    return 0
