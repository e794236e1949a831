"""Cases for the tests of tools: calls that succeed, and calls that each guard refuses.

They are found by trying: sensible calls of the domain's people, and the same with one argument
made odd, in several pasts, at the start or after a call that touches what the guard reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from longcat_envs.history import Caller, Setting
from longcat_envs.lang import show
from longcat_envs.world import CallRefused, LiveWorld, Parameter, Tool

PER_OUTCOME = 2
"""Cases that are kept of one tool and outcome."""
PASTS = 2
DRAWS, FOCUSED = 140, 80
IDLE = "it changes nothing"
"""Outcome of a call that is done and leaves everything as it was."""
LATER = (0, 0, 2, 0, 6, 0, 15)
"""Days after the end of a past, in turn."""
AMOUNTS = ("-5.00", "0.00", "0.01", "7.00", "150.00", "9000.00", "900000.00")

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A call in a world, and what the machine made of it when it was found."""

    tool: str
    past: int
    days: int
    """Days after the end of the past."""
    before: tuple[Call, ...]
    """Calls that lead from the past to the world of the case; all of them succeed."""
    arguments: dict[str, Any]
    outcome: str
    """Empty if it changed something, `IDLE` if nothing, else the reason of the refusal."""


class Finder:
    """Finds the cases of one domain's writing tools."""

    def __init__(self, setting: Setting, seed: int = 0, num_pasts: int = PASTS) -> None:
        self.setting, self.rng = setting, Random(f"{setting.spec.name}:cases:{seed}")
        self.worlds = [LiveWorld(setting.machine, setting.past(n).base) for n in range(num_pasts)]
        self.callers = [Caller(world, setting.words, self.rng) for world in self.worlds]
        self.writers = [t for t in setting.machine.tools.values() if t.is_writer]

    def cases(self, tool: Tool) -> list[Case]:
        """Return cases of one tool: done, and refused for each reason that was brought about."""
        found: list[Case] = []
        kept: Counter[str] = Counter()
        for number in range(DRAWS):
            self._keep(
                found, kept, self._attempt(tool, number % len(self.worlds), LATER[number % 7], ())
            )
        action = tool.action
        assert action is not None
        for guard in action.guards:
            helpers = [t for t in self.writers if t.writes & guard.reads]
            self._focus(tool, guard.reason, helpers, found, kept)
        self._focus(tool, "", self._enablers(tool), found, kept)
        return found

    def _enablers(self, tool: Tool) -> list[Tool]:
        """Return the tools that bring a record to where a tool may act on it."""
        sources = tool.action.sources if tool.action is not None else ()
        found = [t for t in self.writers if t.of == tool.of and t.action is not None
                 and t.action.target in sources]  # fmt: skip
        return found or [t for t in self.writers if t.writes & tool.reads]

    def _focus(
        self, tool: Tool, outcome: str, helpers: list[Tool], found: list[Case], kept: Counter[str]
    ) -> None:
        """Bring about an outcome that was not seen, after a call that prepares it."""
        for number in range(FOCUSED if helpers else 0):
            if kept[outcome]:
                return
            past, days = number % len(self.worlds), LATER[number % 7]
            before = self._helper(self.rng.choice(helpers), past, days)
            if before is not None:
                self._keep(found, kept, self._attempt(tool, past, days, (before,)))

    def _keep(self, found: list[Case], kept: Counter[str], case: Case | None) -> None:
        if case is not None and kept[case.outcome] < PER_OUTCOME:
            kept[case.outcome] += 1
            found.append(case)

    def _begin(self, past: int, days: int) -> LiveWorld:
        world = self.worlds[past]
        world.reset()
        world.store.today += days
        return world

    def _helper(self, tool: Tool, past: int, days: int) -> Call | None:
        """Return a call that succeeds at the start."""
        self._begin(past, days)
        for _ in range(3):
            arguments = self._draw(tool, past, ())
            if arguments is None:
                return None
            try:
                self.worlds[past].call(tool.name, arguments)
            except CallRefused:
                continue
            return tool.name, arguments
        return None

    def _attempt(self, tool: Tool, past: int, days: int, before: tuple[Call, ...]) -> Case | None:
        world = self._begin(past, days)
        for name, arguments in before:
            world.call(name, arguments)
        arguments = self._draw(tool, past, before)
        if arguments is None:
            return None
        try:
            world.call(tool.name, arguments)
        except CallRefused as refused:
            if refused.guard is None:
                return None
            return Case(tool.name, past, days, before, arguments, str(refused))
        return Case(tool.name, past, days, before, arguments, "" if world.changes else IDLE)

    def _draw(self, tool: Tool, past: int, about: tuple[Call, ...]) -> dict[str, Any] | None:
        """Draw arguments: sensible, about the records of earlier calls, or with something odd."""
        caller, rng = self.callers[past], self.rng
        people = caller.world.store.ids(self.setting.spec.person)
        arguments = caller.draw(tool, rng.choice(people) if rng.random() < 0.7 else None)
        if arguments is None:
            arguments = caller.draw(tool, None) or self._any(tool, past)
        if arguments is None:
            return None
        known = {v for _, given in about for v in given.values() if isinstance(v, str)}
        for one in tool.parameters:
            if one.type.kind == "ref" and known and rng.random() < 0.8:
                near = self._near(one.type.of, past, known)
                arguments[one.name] = rng.choice(near) if near else arguments[one.name]
        for one in tool.parameters:
            if rng.random() < 0.35:
                arguments.update(self._odd(one, past, arguments))
        return arguments

    def any_arguments(self, tool: Tool) -> dict[str, Any]:
        """Draw arguments of a reader, in the first past."""
        found: dict[str, Any] = {}
        for one in tool.parameters:
            found.update(self._odd(one, 0, {}))
        return found

    def _near(self, of: str, past: int, known: set[str]) -> list[str]:
        """Return the records of a class that earlier calls name, made, or that refer to such."""
        store = self.worlds[past].store
        base = store.base.rows[of]
        refs = [f.name for f in self.setting.spec.classes[of].fields.values()
                if f.type.kind == "ref"]  # fmt: skip
        return [
            i for i in store.ids(of)
            if i in known or i not in base or any(store.row(of, i)[name] in known for name in refs)
        ]  # fmt: skip

    def _any(self, tool: Tool, past: int) -> dict[str, Any] | None:
        """Draw any records where sensible ones are lacking."""
        found: dict[str, Any] = {}
        for one in tool.parameters:
            odd = self._odd(one, past, found)
            if not odd and one.type.kind == "ref":
                return None
            found.update(odd)
        return found if len(found) >= len(tool.parameters) else None

    def _odd(self, one: Parameter, past: int, given: dict[str, Any]) -> dict[str, Any]:
        """Return another value for an argument: any record, an extreme, one that is there."""
        rng, store = self.rng, self.worlds[past].store
        kind, today = one.type.kind, store.today
        if kind == "ref":
            same = [v for v in given.values() if isinstance(v, str) and store.has(one.type.of, v)]
            ids = store.ids(one.type.of)
            if same and rng.random() < 0.2:
                return {one.name: rng.choice(same)}
            return {one.name: rng.choice(ids)} if ids else {}
        if kind == "money":
            return {one.name: rng.choice([*AMOUNTS, *self._amounts(past, given)])}
        if kind == "int":
            return {one.name: rng.choice([-1, 0, 1, 2, 3, 25, 5_000])}
        if kind == "date":
            return {one.name: show(one.type.plain, today + rng.choice([-30, -1, 0, 1, 3, 40, 700]))}
        if kind == "days":
            first = today + rng.choice([-20, -1, 0, 1, 5, 60])
            days = (first, first + rng.choice([1, 2, 10, 50, 500]))
            texts = show(one.type, days)
            return {f"{one.name}_from": texts[0], f"{one.name}_until": texts[1]}
        if kind == "enum":
            return {one.name: rng.choice(one.type.options)}
        if kind == "flag":
            return {one.name: rng.random() < 0.5}
        return {one.name: rng.choice(["New Text", "0123", "A B"])}

    def _amounts(self, past: int, given: dict[str, Any]) -> Iterator[str]:
        """Yield the amounts that the records of a call hold, so that one may be the same."""
        spec, store = self.setting.spec, self.worlds[past].store
        for of, one in spec.classes.items():
            for value in given.values():
                if isinstance(value, str) and store.has(of, value):
                    for name, field in one.fields.items():
                        cents = store.row(of, value)[name]
                        if field.type.kind == "money" and cents is not None:
                            yield show(field.type.plain, cents)
