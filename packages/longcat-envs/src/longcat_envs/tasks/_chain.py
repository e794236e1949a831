"""Chains of calls that one person wishes for: plain ones, and refused ones that are repaired.

A deep chain begins with a wish that is refused now, by a rule about something else than the
record's own state. What the refusing guard reads names the tools that may help; each helper is
dropped again if the wish does without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

from longcat_envs.history import Caller, Setting
from longcat_envs.lang import Guard, Type, show
from longcat_envs.world import CallRefused, Change, LiveWorld, Tool

from ._call import Call
from ._clash import Clash
from ._figures import is_sensible, looked_up, value_of
from ._goal import Outcome, outcome
from ._sense import (
    is_asked_again,
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


@dataclass(frozen=True, slots=True)
class Done:
    """A call that succeeded, and what it changed, in order."""

    call: Call
    changes: tuple[Change, ...]


class Chains:
    """Finds chains for one person in one world."""

    def __init__(self, setting: Setting, past: int, person: str, rng: Random) -> None:
        self.setting, self.person, self.rng = setting, person, rng
        self.world = LiveWorld(setting.machine, setting.past(past).base)
        self.caller = Caller(self.world, setting.words, rng)
        self.tools = setting.machine.tools
        self.askable = [self.tools[name] for name in setting.words.asks]
        self.clash = Clash(self)
        self.runs = 0
        self.done: list[Done] = []
        """The calls that have brought the world to where it stands."""

    def run(self, chain: Sequence[Call]) -> tuple[int, CallRefused | None]:
        """Bring the world to where a chain leads; return how many calls succeeded, and the refusal.

        What the last run had in common with it is not run again.
        """
        self.runs += 1
        self._back_to(chain)
        for number in range(len(self.done), len(chain)):
            call = chain[number]
            try:
                self.world.call(call.tool, call.arguments)
            except CallRefused as refused:
                return number, refused
            self.done.append(Done(call, tuple(self.world.changes)))
        return len(chain), None

    def _back_to(self, chain: Sequence[Call]) -> None:
        """Leave what was done only if the chain begins with it, taking back one call at most."""
        for num_undone in (0, 1):
            size = len(self.done) - num_undone
            if 0 <= size <= len(chain) and all(
                done.call is call or done.call == call
                for done, call in zip(self.done, chain[:size], strict=False)
            ):
                if num_undone and not self.world.changes:
                    break  # taken back once already
                if num_undone:
                    self.world.undo()
                    self.done.pop()
                return
        self.world.reset()
        self.done = []

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
                    call = looked_up(self, tool, call, [])
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
            _adds(before, after)
            and not _rewrites(made, made_after)
            and is_sensible(self, call)
            and not self.clash.found([*chain, call])
        )

    def _goes_with(self, chain: list[Call], call: Call) -> bool:
        """Whether a person would ask for a call beside those of a chain, by what they are."""
        if any((c.tool, c.arguments) == (call.tool, call.arguments) for c in chain):
            return False
        return not (
            is_asked_again(self, chain, call) or any(moves_twice(self, c, call) for c in chain)
        )

    def own(self, call: Call) -> tuple[str, Any]:
        """Return the record on which a call acts, as class and id."""
        of = self.tools[call.tool].of
        return of, call.arguments.get(f"{of}_id")

    def ends(self, call: Call) -> bool:
        """Whether a call leaves its record in a state that nothing leaves."""
        action = self.tools[call.tool].action
        return action is not None and action.target in self.setting.spec.classes[action.of].ends

    def _made(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the records that are new in the world as it stands."""
        rows = self.world.store.difference()
        return {record: after for record, (before, after) in rows.items() if before is None}

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
                    and not self.clash.found_in(chain, call)
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
        chain = [*helpers, chain[-1]]
        self.run(chain)
        return None if not helpers or self.clash.found_inside(chain) else chain

    def _is_computed(self, chain: list[Call]) -> bool:
        """Whether the figures of each call are as they were drawn, whatever was dropped since."""
        for place, call in enumerate(chain):
            self.run(chain[:place])
            for name, figure in call.computed.items():
                if show(Type("money"), abs(value_of(self, figure))) != call.arguments[name]:
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
        return looked_up(self, tool, call, about) if self.rng.random() < 0.7 else call

    def _names_itself(self, tool: Tool) -> bool:
        """Whether the words for a tool say on which record it acts; else it is one just made."""
        return any("{self}" in text for text in self.setting.words.asks[tool.name])

    def _is_near(self, of: str, identifier: str, known: set[str]) -> bool:
        row = self.world.store.row(of, identifier)
        is_new = identifier not in self.world.store.base.rows[of]
        fields = self.setting.spec.classes[of].fields.values()
        return is_new or any(row[f.name] in known for f in fields if f.type.kind == "ref")


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
