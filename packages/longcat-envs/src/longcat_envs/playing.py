"""Being the agent of a task in a terminal: a fine way to find what is not believable."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ._task import Invalid
from .history import Setting
from .tasks import WorldEnvironment, WorldTask, system_prompt

HELP = """say words          speak to the person
TOOL key=value ...  call a tool; quote values with spaces: name="Ada Berg"
tools [word]        list the tools, or those with a word in their name
give up             end and see what was wanted; so do quit, exit and Ctrl-D"""
ENDS = {"give up", "quit", "exit", "/quit", "/exit"}


def play_in_terminal(
    setting: Setting, task: WorldTask, *,
    ask: Callable[[str], str] = input, show: Callable[[str], None] = print,
) -> int:  # fmt: skip
    """Play one task; return 0 if every part of the reward was earned."""
    environment = WorldEnvironment(setting, task)
    environment.start()
    show(system_prompt(setting, task))
    show(HELP)
    show(f"\nperson: {task.opening}")
    while True:
        try:
            line = ask("> ").strip()
        except EOFError:
            line = "give up"
        if line in ENDS:
            break
        if line.startswith("tools"):
            _list_tools(setting, task, line[5:].strip(), show)
        elif line.startswith("say "):
            answer = environment.hear(line[4:])
            if answer is None:
                show("the person has left")
                break
            show(f"person: {answer}")
        elif line:
            name, _, rest = line.partition(" ")
            call = {"function": {"name": name, "arguments": read_arguments(rest)}}
            show(environment.call_now(call).content)
    return _end(environment, task, show)


def _list_tools(setting: Setting, task: WorldTask, word: str, show: Callable[[str], None]) -> None:
    for name in task.tools:
        if word in name:
            names = setting.machine.names.get(name, frozenset({"rule"}))
            show(f"  {name}({', '.join(sorted(names))})")


def _end(environment: WorldEnvironment, task: WorldTask, show: Callable[[str], None]) -> int:
    score = environment.score_now()
    if isinstance(score, Invalid):
        show(f"the world failed: {score.reason}")
        return 1
    for part, met in score.parts.items():
        show(f"{'met  ' if met else 'unmet'} {part}")
    if score.total < 1:
        show("one way:")
        for step in task.golden:
            show(f"  {step.tool} {json.dumps(step.arguments, ensure_ascii=False)}")
    return 0 if score.total == 1 else 1


def read_arguments(text: str) -> dict[str, Any]:
    """Read `key=value key="two words"`."""
    found: dict[str, Any] = {}
    key, value, quoted, in_value = "", "", False, False
    for letter in text + " ":
        if letter == '"':
            quoted = not quoted
        elif letter == "=" and not in_value:
            in_value = True
        elif letter == " " and not quoted:
            if key:
                found[key] = {"true": True, "false": False}.get(value, value)
            key, value, in_value = "", "", False
        elif in_value:
            value += letter
        else:
            key += letter
    return found
