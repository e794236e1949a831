"""What is wrong with a domain, told so that its author, a model or a person, can mend it.

The checks come in the order in which they make sense; the first kind that finds something ends the
list, as what follows would only be its consequence.

    read      the file and its words are in the language
    size      enough tools, readers, parts and ways of asking
    past      weeks can be lived through; no tool is dead, no invariant breaks
    tools     every tool does what a second reading of the text says
    tasks     tasks can be made, and the audit finds nothing in them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longcat_envs._fields import DomainError
from longcat_envs.attacks import audit_task
from longcat_envs.checks import check_tools
from longcat_envs.history import Setting
from longcat_envs.lang import read_spec
from longcat_envs.tasks import TaskMaker
from longcat_envs.world import Machine
from longcat_envs.world._words import read_words
from longcat_envs.world.parts import PARTS

MAX_PROBLEMS = 12
"""Told at once."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a domain must reach."""

    min_tools: int = 60
    max_reader_share: float = 0.45
    min_parts: int = 6
    min_asks: int = 15
    max_dead: int = 2
    num_tasks: int = 3
    """Tasks that are made and audited."""

    def __post_init__(self) -> None:
        if min(self.min_tools, self.min_parts, self.min_asks, self.max_dead, self.num_tasks) < 0:
            raise ValueError("a bar has no numbers below zero")
        if not 0 < self.max_reader_share <= 1:
            raise ValueError(f"max_reader_share must be in (0, 1], got {self.max_reader_share}")


def problems(name: str, text: str, words: str, bar: Bar) -> list[str]:
    """Return what is wrong with a domain; nothing if it passes."""
    try:
        spec = read_spec(text, name=name, parts=PARTS, file=f"{name}.world")
        setting = Setting(Machine(spec), read_words(words, spec, f"{name}.words.en"))
    except DomainError as error:
        return [str(error)]
    checks: tuple[Callable[[Setting, Bar], list[str]], ...] = (_size, _past, _tools, _tasks)
    for check in checks:
        found = check(setting, bar)
        if found:
            return found[:MAX_PROBLEMS]
    return []


def _size(setting: Setting, bar: Bar) -> list[str]:
    tools = setting.machine.tools.values()
    num_readers, asks = sum(not tool.is_writer for tool in tools), setting.words.asks
    share = num_readers / len(tools)
    figures = (
        (len(tools) < bar.min_tools,
         f"there must be at least {bar.min_tools} tools, got {len(tools)}"),
        (share > bar.max_reader_share,
         f"at most {bar.max_reader_share:.0%} of the tools may be readers, got {share:.0%}"),
        (len(setting.spec.parts) < bar.min_parts,
         f"at least {bar.min_parts} parts must be used, got {', '.join(setting.spec.parts)}"),
        (len(asks) < bar.min_asks,
         f"there must be at least {bar.min_asks} `ask` lines, got {len(asks)}"),
    )  # fmt: skip
    return [words for is_wrong, words in figures if is_wrong]


def _past(setting: Setting, bar: Bar) -> list[str]:
    try:
        past = setting.past(0)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError) as error:
        return [f"the simulated weeks end with {type(error).__name__}: {error}"]
    if len(past.dead) <= bar.max_dead:
        return []
    return [f"the tool {name} hardly ever succeeds: {past.successes.get(name, 0)} times in the "
            "simulated weeks; loosen its guards, or draw better values" for name in past.dead]  # fmt: skip


def _tools(setting: Setting, bar: Bar) -> list[str]:
    return [f"{r.tool}: {fault}" for r in check_tools(setting) for fault in r.faults[:1]]


def _tasks(setting: Setting, bar: Bar) -> list[str]:
    maker = TaskMaker(setting, seed=0)
    try:
        tasks = [next(maker) for _ in range(bar.num_tasks)]
    except RuntimeError as error:
        return [str(error)]
    return [f"a task made from it has a fault: {fault}; its opening is: {task.opening}"
            for task in tasks for fault in audit_task(setting, task).faults]  # fmt: skip
