"""Calls that a solver tries: arguments from what is heard, what the goal names, and the world.

It sees the goal, the person's words and the world as it stands; never the golden chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice, product
from typing import Any, cast

from longcat_envs._chinese import is_in
from longcat_envs._plain import plain
from longcat_envs._told import dates, numbers
from longcat_envs.history import Setting, owned
from longcat_envs.lang import Type, show
from longcat_envs.world import LiveWorld, Parameter, Tool

from ._goal import Goal
from ._task import WorldTask

MAX_COMBINATIONS = 3_000
"""Combinations of arguments that are ordered, for one tool in one world."""
MAX_OTHERS = 60
"""Records that belong to nobody and that nobody names, for one argument."""
_WORDS = re.compile(r"[\w@.+'&-]*\w")
_TEXTS = re.compile(r"\S+@\S+\w|\d[\d ]{4,}\d|[A-Z]{2}-\d{3}|[A-Z][a-z]+ [A-Z][a-z]+|\b\d{4}\b")


class Candidates:
    """Draws up the calls that may bring a world nearer to a goal."""

    def __init__(self, setting: Setting, task: WorldTask, world: LiveWorld) -> None:
        self.setting, self.world, self.person = setting, world, task.person
        self.heard = task.heard
        self.tools = [
            tool for name in task.tools
            if (tool := setting.machine.tools.get(name)) is not None and tool.is_writer
        ]  # fmt: skip
        self._named = _named(task.goal)
        self._amounts = _amounts(task.goal)
        form, year = plain(self.heard), str(date.fromordinal(world.store.today).year)
        self._numbers = _unique(v.lstrip("-") for _, _, v in numbers(places=2)(form))
        self._days = sorted({value for _, _, value in dates(year=year)(form)})
        self._values = _changed(task.goal)

    def calls(self, fields: set[str], made: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield calls of tools that write one of the fields or make one of the classes."""
        ranked: list[tuple[int, int, Tool, tuple[Any, ...]]] = []
        for number, tool in enumerate(self.tools):
            if not (tool.writes & fields or tool.yields & made):
                continue
            lists = [list(self._options(tool, one)) for one in tool.parameters]
            places = product(*(range(len(options)) for options in lists))
            for chosen in islice(places, MAX_COMBINATIONS):
                picked = tuple(o[place] for o, place in zip(lists, chosen, strict=True))
                ranked.append((sum(chosen), number, tool, picked))
        ranked.sort(key=lambda found: found[:2])
        for _, _, tool, picked in ranked:
            arguments: dict[str, Any] = {}
            for one, value in zip(tool.parameters, picked, strict=True):
                if one.type.kind == "days":
                    arguments[f"{one.name}_from"], arguments[f"{one.name}_until"] = value
                else:
                    arguments[one.name] = value
            yield tool.name, arguments

    def records(self, of: str) -> list[str]:
        """Return the records of a class that may be meant, likely ones first."""
        store, spec = self.world.store, self.setting.spec
        base = store.base.rows[of]
        new = [i for i in store.ids(of) if i not in base]
        found = [*new, *sorted(i for i in self._named if i in base)]
        found += owned(store, of, self.person)
        if spec.classes[of].owner is None:
            names = [f.name for f in spec.classes[of].fields.values() if f.is_unique]
            is_said = {
                i: any(self._is_heard(str(store.row(of, i)[name])) for name in names)
                for i in store.ids(of)
            }
            found += [i for i in is_said if is_said[i]]
            found += [i for i in is_said if not is_said[i]][:MAX_OTHERS]
        return _unique(found)

    def _is_heard(self, text: str) -> bool:
        return is_in(text, self.heard, re.IGNORECASE)

    def _options(self, tool: Tool, one: Parameter) -> Iterable[Any]:
        """Return values of an argument, likely ones first."""
        kind, action = one.type.kind, tool.action
        assert action is not None
        is_self = one.name == f"{tool.of}_id" and not action.makes_record
        if kind == "ref":
            found = self.records(one.type.of)
            if is_self and action.sources:
                states = {i: self.world.store.row(tool.of, i)["state"] for i in found}
                found = [i for i in found if states[i] in action.sources]
            return [*found, None] if one.type.is_optional else found
        goal: list[Any] = [v for w in sorted(tool.writes) for v in self._values.get(w, ())]
        if kind == "flag":
            return [True, False]
        if kind == "enum":
            said = [o for o in one.type.options if self._is_heard(self.setting.words.say(o))]
            return _unique([*said, *one.type.options])
        if kind == "days":
            pairs = [(a, b) for a in self._days for b in self._days if a < b]
            wanted = [tuple(cast("list[str]", v)) for v in goal if isinstance(v, list)]
            return _unique([*wanted, *pairs])
        if kind == "date":
            return _unique([*(v for v in goal if v in self._days), *self._days])
        if kind == "int":
            whole = [int(float(n)) for n in self._numbers if float(n).is_integer()]
            return _unique([*(v for v in goal if isinstance(v, int)), *whole])
        if kind == "money":
            return self._money(goal)
        return self._texts(tool, one, goal)

    def _money(self, goal: list[Any]) -> list[str]:
        amounts = [v for v in goal if isinstance(v, str) and re.fullmatch(r"-?\d+\.\d\d", v)]
        moved = [show(Type("money"), cents) for cents in self._amounts]
        return _unique([*self._numbers, *amounts, *moved, *self._figures()])

    def _figures(self) -> Iterator[str]:
        """Yield the amounts of the records that the goal names or the person owns."""
        spec, store = self.setting.spec, self.world.store
        for of, one in spec.classes.items():
            base = store.base.rows[of]
            ids = [i for i in store.ids(of) if i not in base or i in self._named]
            for identifier in _unique([*ids, *owned(store, of, self.person)])[:20]:
                row = store.row(of, identifier)
                for name, field in one.fields.items():
                    if field.type.kind == "money" and row[name]:
                        yield show(field.type.plain, abs(row[name]))
                for value in one.derived.values():
                    if value.type.kind == "money":
                        cents = value.run(store, {"self": identifier})
                        if cents:
                            yield show(value.type.plain, abs(cents))

    def _texts(self, tool: Tool, one: Parameter, goal: list[Any]) -> list[str]:
        keys = (f"{tool.name}.{one.name}", f"{tool.of}.{one.name}")
        values = self.setting.words.values
        options = next((values[key] for key in keys if key in values), "")
        told = [o.strip() for o in options.split("|") if self._is_heard(o.strip())]
        shaped = [match.strip() for match in _TEXTS.findall(self.heard)]
        words = _WORDS.findall(self.heard)
        grams = [" ".join(words[n : n + size]) for size in (1, 2, 3, 4) for n in range(len(words))]
        wanted = [v for v in goal if isinstance(v, str)]
        likely = _unique([*(v for v in wanted if self._is_heard(v)), *told, *shaped])
        return likely or _unique(grams)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _named(goal: Goal) -> set[str]:
    """Return every id that a goal names, and what looks like one."""
    text = f"{goal.changed} {goal.events} {goal.touched}"
    return set(re.findall(r"\b[A-Z]{1,6}\d+\b", text))


def _amounts(goal: Goal) -> list[int]:
    """Return the amounts, in cents, that a goal says were moved."""
    found = [re.search(r"(-?\d+)$", event) for event in goal.events if event.startswith("money ")]
    return _unique(abs(int(match[1])) for match in found if match is not None)


def _changed(goal: Goal) -> dict[str, list[Any]]:
    """Return the values that a goal wants, by `class.field`."""
    found: dict[str, list[Any]] = {}
    for record, values in goal.changed.items():
        for name, value in values.items():
            found.setdefault(f"{record.partition(':')[0]}.{name}", []).append(value)
    return found
