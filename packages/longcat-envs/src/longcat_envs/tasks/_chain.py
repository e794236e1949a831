"""Chains of calls that one person wishes for: plain ones, and refused ones that are repaired.

A deep chain begins with a wish that is refused now, by a rule about something else than the
record's own state. What the refusing guard reads names the tools that may help; each helper is
dropped again if the wish does without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any

from longcat_envs.history import Caller, Setting, owned
from longcat_envs.lang import Guard, Type, show
from longcat_envs.world import CallRefused, LiveWorld, Tool

from ._call import Call, Figure
from ._goal import Outcome, outcome
from ._sense import (
    ends_what_is_used,
    is_amount,
    is_asked_again,
    is_sensible,
    moves_back,
    moves_twice,
    names_twice,
    only_replaces,
)

Draw = Callable[[Tool], Call | None]
"""Draws a call of a tool in the world as it stands; `None` if there is none of its kind."""

MAX_RUNS = 40
"""Simulated chains for one repair."""

MAX_REPAIRS = 12
"""Refused wishes that one search tries to repair."""

MAX_HELPERS = 3
TRIES = 6


class Chains:
    """Finds chains for one person in one world."""

    def __init__(self, setting: Setting, past: int, person: str, rng: Random) -> None:
        self.setting, self.person, self.rng = setting, person, rng
        self.world = LiveWorld(setting.machine, setting.past(past).base)
        self.caller = Caller(self.world, setting.words, rng)
        self.tools = setting.machine.tools
        self.askable = [self.tools[name] for name in setting.words.asks]
        self.runs = 0

    def run(self, chain: Sequence[Call]) -> tuple[int, CallRefused | None]:
        """Run a chain from the start; return how many calls succeeded, and the refusal."""
        self.runs += 1
        self.world.reset()
        for number, call in enumerate(chain):
            try:
                self.world.call(call.tool, call.arguments)
            except CallRefused as refused:
                return number, refused
        return len(chain), None

    def outcome(self, chain: Sequence[Call]) -> Outcome | None:
        """Return what a chain comes to; `None` if a call of it is refused."""
        return outcome(self.world) if self.run(chain)[1] is None else None

    # -- wishes --------------------------------------------------------------------------

    def wishes(self, uses: Counter[str]) -> list[Tool]:
        """Return what the person may ask for, in an order that prefers what was seldom asked."""
        wished = [t for t in self.askable if t.action and not t.action.is_inside]
        weights = {t.name: self.rng.random() ** (1 + uses[t.name]) for t in wished}
        return sorted(wished, key=lambda t: -weights[t.name])

    def draw(self, tool: Tool) -> Call | None:
        """Draw a call of a tool for the person, in the world as it stands."""
        arguments = self.caller.draw(tool, self.person)
        if arguments is None or names_twice(tool, arguments):
            return None
        return Call(tool.name, arguments)

    def plain(
        self, chain: list[Call], uses: Counter[str], draw: Draw, *, must_compute: bool = False
    ) -> Call | None:
        """Return a wish that succeeds after the chain and touches nothing that it touched."""
        wishes = self.wishes(uses)
        if must_compute:
            wishes = [t for t in wishes if any(p.type.kind == "money" for p in t.parameters)]
        for tool in wishes:
            for _ in range(TRIES):
                self.run(chain)
                call = draw(tool)
                if call is not None and must_compute:
                    call = self._compute(tool, call, [])
                if call is None or (must_compute and not call.computed):
                    continue
                if self.fits(chain, call):
                    return call
        return None

    def fits(self, chain: list[Call], call: Call) -> bool:
        """Whether a call succeeds after the chain, writes no field anew and ends nothing new."""
        if not self._goes_with(chain, call):
            return False
        before, made = self.outcome(chain), self._made()
        after, made_after = self.outcome([*chain, call]), self._made()
        if before is None or after is None or after == before:
            return False
        return (
            not ends_what_is_used(self, chain, call)
            and _adds(before, after)
            and not _rewrites(made, made_after)
            and is_sensible(self, call)
            and not self._ends_new(chain, call)
        )

    def _goes_with(self, chain: list[Call], call: Call) -> bool:
        """Whether a person would ask for a call beside those of a chain, by what they are."""
        if any((c.tool, c.arguments) == (call.tool, call.arguments) for c in chain):
            return False
        if is_asked_again(self, chain, call) or any(moves_twice(self, c, call) for c in chain):
            return False
        if self.ends(call) and any(self.own(c) == self.own(call) for c in chain if not c.is_helper):
            return False  # nobody has a record changed and ended at once
        return not any(
            self._makes_anew(one, other) for c in chain if not c.is_helper
            for one, other in ((c, call), (call, c))
        )  # fmt: skip

    def own(self, call: Call) -> tuple[str, Any]:
        """Return the record on which a call acts, as class and id."""
        of = self.tools[call.tool].of
        return of, call.arguments.get(f"{of}_id")

    def ends(self, call: Call) -> bool:
        """Whether a call leaves its record in a state that nothing leaves."""
        action = self.tools[call.tool].action
        return action is not None and action.target in self.setting.spec.classes[action.of].ends

    def _makes_anew(self, one: Call, other: Call) -> bool:
        """Whether one call ends a record of a class of which the other makes one."""
        made, ended = self.tools[other.tool], self.tools[one.tool]
        is_new = made.action is not None and made.action.makes_record
        return is_new and made.of == ended.of and self.ends(one)

    def _made(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the records that are new in the world as it stands."""
        rows = self.world.store.difference()
        return {record: after for record, (before, after) in rows.items() if before is None}

    def _ends_new(self, chain: list[Call], call: Call) -> bool:
        """Whether a call changes the state of a record that the chain itself has made."""
        self.run(chain)
        tool = self.tools[call.tool]
        action = tool.action
        identifier = call.arguments.get(f"{tool.of}_id")
        is_new = identifier is not None and identifier not in self.world.store.base.rows[tool.of]
        ends = action is not None and action.target in self.setting.spec.classes[tool.of].ends
        return is_new and ends

    def refused(
        self, chain: list[Call], uses: Counter[str], draw: Draw
    ) -> tuple[Call, Guard] | None:
        """Return a wish that one rule, and one only, forbids both at the start and at the end."""
        for tool in self.wishes(uses):
            for _ in range(TRIES):
                self.run([])
                call = draw(tool)
                if call is None or is_asked_again(self, chain, call):
                    continue
                guard = self._forbidding(call)
                if guard is None:
                    continue
                _, last = self.run([*chain, call])
                if (
                    last is not None
                    and last.guard is not None
                    and last.guard.reason == guard.reason
                ):
                    return call, guard
        return None

    def _forbidding(self, call: Call) -> Guard | None:
        _, refusal = self.run([call])
        guard = refusal.guard if refusal is not None else None
        if guard is None or guard.is_state or guard.reason not in self.setting.spec.clauses:
            return None
        if guard.reason.startswith("another "):
            return None  # nobody asks that something be changed to what it is
        tool = self.tools[call.tool]
        assert tool.action is not None
        values = self.world.arguments(tool, call.arguments)
        if tool.action.makes_record:
            return guard
        values["self"] = values.pop(f"{tool.of}_id")
        failing = 0
        for other in tool.action.guards:
            try:
                failing += not other.run(self.world.store, dict(values))
            except KeyError:  # a guard of an action called with values of its own
                continue
        return guard if failing <= 1 else None

    # -- repair --------------------------------------------------------------------------

    def repaired(self, uses: Counter[str], draw: Draw) -> list[Call] | None:
        """Return a chain whose last call is refused without those before it."""
        num_tried = 0
        for tool in self.wishes(uses):
            for _ in range(2):
                self.run([])
                call = draw(tool)
                if call is None or num_tried >= MAX_REPAIRS:
                    continue
                _, refusal = self.run([call])
                guard = refusal.guard if refusal is not None else None
                if guard is None or guard.is_state:
                    continue
                self.runs, num_tried = 0, num_tried + 1
                chain = self._repair([], call, MAX_HELPERS)
                if chain is not None and len(chain) > 1:
                    return self._needed(chain)
        return None

    def _repair(self, helpers: list[Call], wish: Call, depth: int) -> list[Call] | None:
        done, refusal = self.run([*helpers, wish])
        if refusal is None:
            return [*helpers, wish]
        guard = refusal.guard
        if depth == 0 or guard is None or done < len(helpers) or self.runs > MAX_RUNS:
            return None
        useful = [t for t in self.askable if t.writes & guard.reads and t.name != wish.tool]
        self.rng.shuffle(useful)
        for tool in useful:
            for _ in range(2):
                self.run(helpers)
                call = self._focused(tool, [*helpers, wish])
                if call is None or call in helpers or moves_back(self, call, wish):
                    continue
                if only_replaces(self, call, wish):
                    continue
                if self.run([*helpers, call])[1] is not None or not is_sensible(self, call):
                    continue
                found = self._repair([*helpers, call], wish, depth - 1)
                if found is not None:
                    return found
        return None

    def _needed(self, chain: list[Call]) -> list[Call] | None:
        """Drop every helper that the wish does without."""
        place = 0
        while place < len(chain) - 1:
            shorter = chain[:place] + chain[place + 1 :]
            if self.run(shorter)[1] is None:
                chain = shorter
            else:
                place += 1
        for one, other in combinations(chain[:-1], 2):
            if self.run([c for c in chain if c not in (one, other)])[1] is None:
                return None  # two helpers that need only one another
        if self._takes_back(chain) or not self._is_computed(chain):
            return None
        if any(moves_twice(self, one, other) for one, other in combinations(chain[:-1], 2)):
            return None
        helpers = [Call(c.tool, c.arguments, c.computed, is_helper=True) for c in chain[:-1]]
        return [*helpers, chain[-1]] if helpers else None

    def _is_computed(self, chain: list[Call]) -> bool:
        """Whether the figures of each call are as they were drawn, whatever was dropped since."""
        for place, call in enumerate(chain):
            self.run(chain[:place])
            for name, figure in call.computed.items():
                if show(Type("money"), abs(self.value(figure))) != call.arguments[name]:
                    return False
        return True

    def _takes_back(self, chain: list[Call]) -> bool:
        """Whether all that some helper did is as before at the end."""
        reached = self.outcome(chain)
        for place in range(len(chain) - 1):
            before, after = self.outcome(chain[:place]), self.outcome(chain[: place + 1])
            if reached is None or before is None or after is None:
                return True
            done = [(record, name) for record, values in after.changed.items() for name in values
                    if before.changed.get(record, {}).get(name) != values[name]]  # fmt: skip
            kept = any(name in reached.changed.get(record, {}) for record, name in done)
            if not kept and len(after.made) == len(before.made):
                return True
        return False

    def _focused(self, tool: Tool, about: Sequence[Call]) -> Call | None:
        """Draw a call that concerns the records of other calls, with their values."""
        arguments = self.caller.draw(tool, self.person)
        if arguments is None:
            return None
        known = {v for call in about for v in call.arguments.values() if isinstance(v, str)}
        action = tool.action
        for one in tool.parameters:
            if one.type.kind == "ref":
                is_self = one.name == f"{tool.of}_id" and action is not None
                states = action.sources if is_self and action is not None else ()
                options = self.caller.options(one.type, self.person, states)
                near = [i for i in options if i in known or self._is_near(one.type.of, i, known)]
                taken = {arguments[n] for n in arguments if n != one.name}
                near = [i for i in near if i not in taken] or near
                if is_self and not self._names_itself(tool):
                    near = [i for i in near if i not in self.world.store.base.rows[tool.of]]
                    if not near:
                        return None
                if near and (is_self or self.rng.random() < 0.5):
                    arguments[one.name] = self.rng.choice(near)
            else:
                for call in about:
                    if one.name in call.arguments and self.rng.random() < 0.8:
                        arguments[one.name] = call.arguments[one.name]
        call = Call(tool.name, arguments)
        return self._compute(tool, call, about) if self.rng.random() < 0.7 else call

    def _names_itself(self, tool: Tool) -> bool:
        """Whether the words for a tool say on which record it acts; else it is one just made."""
        return any("{self}" in text for text in self.setting.words.asks[tool.name])

    def _is_near(self, of: str, identifier: str, known: set[str]) -> bool:
        row = self.world.store.row(of, identifier)
        is_new = identifier not in self.world.store.base.rows[of]
        fields = self.setting.spec.classes[of].fields.values()
        return is_new or any(row[f.name] in known for f in fields if f.type.kind == "ref")

    def _compute(self, tool: Tool, call: Call, about: Sequence[Call]) -> Call:
        """Let an amount be a figure of a record that the call or the person knows."""
        for one in tool.parameters:
            if one.type.kind != "money":
                continue
            figures = [f for f in self.figures([call, *about]) if is_amount(self.tools, f[0])]
            if not figures:
                return call
            figure, value = self.rng.choice(figures)
            arguments = {**call.arguments, one.name: show(one.type, value)}
            return Call(call.tool, arguments, {one.name: figure})
        return call

    def figures(self, about: Sequence[Call]) -> list[tuple[Figure, int]]:
        """Return amounts above zero, of the records that calls name or the person owns."""
        spec, store = self.setting.spec, self.world.store
        known = {v for call in about for v in call.arguments.values() if isinstance(v, str)}
        found: list[tuple[Figure, int]] = []
        for key in self.setting.words.figures:
            of, _, name = key.partition(".")
            for identifier in owned(store, of, self.person):
                if about and identifier not in known and of != spec.person:
                    continue
                value = self.value(Figure(of, identifier, name))
                type_ = spec.classes[of]
                kind = (type_.fields[name].type if name in type_.fields else
                        type_.derived[name].type).kind  # fmt: skip
                if kind == "money" and value != 0:
                    found.append((Figure(of, identifier, name), abs(value)))
        return found

    def value(self, figure: Figure) -> Any:
        """Return a figure in the world as it stands."""
        one = self.setting.spec.classes[figure.of]
        if figure.name in one.derived:
            return one.derived[figure.name].run(self.world.store, {"self": figure.id})
        return self.world.store.row(figure.of, figure.id)[figure.name]


def _adds(before: Outcome, after: Outcome) -> bool:
    """Whether all that had changed before is as it was, and nothing made is gone."""
    for record, fields in before.changed.items():
        now = after.changed.get(record, {})
        for name, value in fields.items():
            if name not in now or (name != "balance" and now[name] != value):
                return False
    return len(after.made) >= len(before.made)


def _rewrites(made: Mapping[Any, dict[str, Any]], after: Mapping[Any, dict[str, Any]]) -> bool:
    """Whether a record that was made is given another value, its state and balance apart."""
    return any(
        value != row[name] and row[name] is not None and name not in ("state", "balance")
        for record, row in made.items() for name, value in after.get(record, row).items()
    )  # fmt: skip
