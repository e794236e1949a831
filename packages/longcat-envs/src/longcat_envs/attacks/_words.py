"""Words: whether the golden chain can be found from what is said and what tools yield."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from typing import Any

from longcat_envs._chinese import is_in
from longcat_envs._plain import plain
from longcat_envs._told import canonical_number, dates, numbers
from longcat_envs.history import Setting
from longcat_envs.tasks import REFUSE, Step, WorldEnvironment, WorldTask, language_of, system_prompt
from longcat_envs.world import Base


def word_faults(setting: Setting, task: WorldTask, environment: WorldEnvironment) -> Iterator[str]:
    """Yield what is wrong with the words of a task."""
    for text in (*task.wishes, task.withheld, task.change, task.answer):
        if re.search(r"[{}]|\bNone\b", text):
            yield f"a placeholder is left in {text!r}"
    heard = task.heard
    prompt = system_prompt(setting, task)
    known = _Known(setting, heard, setting.past(task.past).base)
    environment.start()
    for step in task.golden:
        for name, value in step.arguments.items():
            if step.tool == REFUSE:
                if f"{value} " not in prompt:
                    yield f"the rules do not hold {value}"
            elif not known.holds(value):
                yield f"nobody says or yields {name} {value!r} of {step.tool}"
        result = environment.call_now(
            {"function": {"name": step.tool, "arguments": step.arguments}}
        )
        if result.is_error:
            yield f"the golden chain is refused: {step.tool}: {result.content}"
            continue
        content = json.loads(result.content)
        known.add(content)
        if step.tool.startswith("search_"):
            yield from _ambiguous(setting, task, step, content)
    yield from _stray(task, heard, known.year)
    yield from _untrue(setting, task, known.year)


class _Known:
    """Every value said by the person or held by a result."""

    def __init__(self, setting: Setting, heard: str, base: Base) -> None:
        self.year = str(date.fromordinal(base.today).year)
        self._rows = base.rows
        self._words, self._language = setting.words, language_of(setting.words)
        self._heard, form = _plain(heard), plain(heard)
        self._numbers = {v.lstrip("-") for _, _, v in numbers(places=2)(form)}
        self._days = {v for _, _, v in dates(year=self.year)(form)}
        self._values: set[str] = set()

    def add(self, value: Any) -> None:
        """Take in a result."""
        if isinstance(value, dict):
            for inner in value.values():  # pyright: ignore[reportUnknownVariableType]
                self.add(inner)
        elif isinstance(value, list):
            for inner in value:  # pyright: ignore[reportUnknownVariableType]
                self.add(inner)
        elif value is not None:
            self._values.add(str(value))
            with suppress(ArithmeticError):
                self._numbers.add(canonical_number(str(value), 2).lstrip("-"))

    def holds(self, value: Any) -> bool:
        """Whether a literal of a call is known."""
        if isinstance(value, bool):
            return any(is_in(word, self._heard) for word in (self._language.yes, self._language.no))
        text = str(value)
        if text in self._values or text in self._days:
            return True
        if any(text in rows for rows in self._rows.values()):
            return False  # no person knows the id of a record
        is_number = re.fullmatch(r"-?\d+(\.\d+)?", text) is not None
        if is_number and canonical_number(text, 2).lstrip("-") in self._numbers:
            return True
        return is_in(_plain(self._words.say(text)), self._heard)


def _plain(text: str) -> str:
    return text.replace("_", " ").casefold()


def _ambiguous(
    setting: Setting, task: WorldTask, step: Step, content: dict[str, Any]
) -> Iterator[str]:
    """One record alone, among those that have not ended, must fit what was looked for."""
    of = step.tool.removeprefix("search_")
    ends = setting.spec.classes[of].ends
    live = [row for row in content["rows"] if row.get("state") not in ends]
    if content["total"] > len(content["rows"]) or len(live) != 1:
        yield f"{len(live)} records of {of} fit {step.arguments}"


def _stray(task: WorldTask, heard: str, year: str) -> Iterator[str]:
    """Every number and date that is said must be of use, or be the one that is changed later."""
    said = [*task.golden, *task.forbidden]
    used = {str(value) for step in said for value in step.arguments.values()}
    used |= {task.mistaken} - {""}
    texts = sorted((u for u in used if not re.fullmatch(r"-?\d+(\.\d+)?", u)), key=len)
    for text in reversed(texts):
        whole = rf"(?<![\d.]){re.escape(_plain(text))}(?!\d)"
        heard = re.sub(whole, " ", heard, flags=re.IGNORECASE)
    heard, mistaken = plain(heard), plain(task.mistaken)
    amounts = {canonical_number(u, 2) for u in used - set(texts)}
    amounts |= {v for _, _, v in numbers(places=2)(mistaken)}
    stray = {v for _, _, v in numbers(places=2)(heard)} - amounts
    stray |= {v for _, _, v in dates(year=year)(heard)} - used
    if stray:
        yield f"numbers are said that nothing needs: {sorted(stray)}"


def _untrue(setting: Setting, task: WorldTask, year: str) -> Iterator[str]:
    """What is withheld or changed must be what the chain needs."""
    language, tools = language_of(setting.words), setting.machine.tools
    used: set[str] = set()
    for step in task.golden:
        for one in tools[step.tool].parameters if step.tool in tools else ():
            if one.name in step.arguments:
                value = step.arguments[one.name]
                used.add(language.argument(one.type, value, setting.words, year))
                used |= {str(value)} if one.type.kind == "date" else set()
    for line, form in ((task.withheld, language.withheld), (task.change, language.change)):
        if line and not _says(form, ".+", line):
            yield f"{line!r} does not say what is"
        elif line and not any(_says(form, re.escape(value), line) for value in used):
            yield f"{line!r} is not what the chain needs"


def _says(form: str, value: str, line: str) -> bool:
    """Whether a line names something and says its value; a text may itself hold an `is`."""
    words = [re.escape(part) for part in form.split("{}")]
    return re.fullmatch(f"{words[0]}.+{words[1]}{value}{words[2]}", line) is not None
