"""Wishes of one person that stand against one another, by what each of them does.

    undone     one ends or suspends a record in which another has a part, or a person's standing
    set twice  both give a field a value, balances apart
    asked for  one sets what another puts a request in for
    had        both want the same thing for records of a class, or one ends such a record and
               another makes one
    empty      money is taken from what was just made
    of no use  one of several things that should make a wish possible is not used by any other

What makes a wish possible belongs to it: between the two nearly anything may be, as a rule
demands it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longcat_envs.lang import Spec
from longcat_envs.world import Change

from ._call import Call
from ._sense import Record, led_to

if TYPE_CHECKING:
    from ._chain import Chains

Field = tuple[str, str, str]
"""Class, id and name."""

Name = tuple[str, str, tuple[str, ...]]
"""Class, words with slots, and what stands in these: `my {size} box`."""


def suspensions(spec: Spec) -> dict[str, frozenset[str]]:
    """Return by class the states that lead back to one nearer the beginning: frozen, paused."""
    found: dict[str, frozenset[str]] = {}
    for of, one in spec.classes.items():
        moves = [(source, action.target) for action in spec.actions.values()
                 if action.of == of and action.target for source in action.sources]  # fmt: skip
        depth = dict.fromkeys(one.states[:1], 0)
        for _ in one.states:
            for source, target in moves:
                if source in depth:
                    depth[target] = min(depth.get(target, len(one.states)), depth[source] + 1)
        found[of] = frozenset(
            target for source, target in moves
            if (target, source) in moves and depth.get(source, 0) < depth.get(target, 0)
        )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Deed:
    """What one call does."""

    is_helper: bool
    adds: bool
    """Whether it is one of several lines or messages."""
    lowered: frozenset[Record]
    """Records that are ended or suspended."""
    reached: frozenset[Record]
    """Records that are written or made, and those to which they lead."""
    own: frozenset[Field]
    """Fields written in the record on which it acts."""
    asked: frozenset[Field]
    """Class of a request that is put in, and the record for which it is."""
    looks: frozenset[Field]
    """Class that its rules look at, and the record on which it acts."""
    wanted: frozenset[Record]
    """What is nobody's own, and no person, that is obtained for records of a class."""
    made: frozenset[Record]
    gone: frozenset[Name]
    """What a record was called that has ended or is called otherwise now."""
    named: frozenset[Name]
    """What the records made are called."""


class Clash:
    """Compares wishes of one person."""

    def __init__(self, chains: Chains) -> None:
        self.chains, self.spec, self.tools = chains, chains.setting.spec, chains.tools
        away = suspensions(self.spec)
        self._low = {of: away[of] | one.ends for of, one in self.spec.classes.items()}
        values = chains.setting.words.values
        self._people = {key.partition(".")[0] for key in values if values[key] == "person"}

    def found(self, chain: Sequence[Call]) -> str:
        """Return how the last wish of a chain stands against an earlier one; empty if it does not.

        The world stands where the chain leads.
        """
        start = max((n for n, call in enumerate(chain[:-1], 1) if not call.is_helper), default=0)
        deeds = self._deeds(chain)
        how = self._first(deeds[:start], deeds[start:])
        return how or ("empty" if self._is_overdrawn() else "")

    def found_in(self, chain: Sequence[Call], call: Call) -> str:
        """Return how a call that is refused would stand against what a chain has done."""
        return self._first(self._deeds(chain), [self._refused(call)])

    def found_inside(self, chain: Sequence[Call]) -> str:
        """Return how what should make a wish possible stands against it; empty if it does not.

        Before a record is ended, what hangs on it is ended too, and nothing is put into it.
        The world stands where the chain leads.
        """
        *helpers, wish = deeds = self._deeds(chain)
        for place, (one, done) in enumerate(zip(helpers, self.chains.done, strict=False), 1):
            if one.gone & wish.named:
                return "had"
            emptied = {(c.of, c.id) for c in done.changes if _balance(c.after) < _balance(c.before)}
            said = {f[:2] for f in one.own if f[2] != "state"}
            if (said - emptied) & wish.lowered:
                return "undone"
            if any(self._is_put_in(c, one, wish.lowered - emptied) for c in done.changes):
                return "undone"
            is_used = any(one.made & later.reached for later in deeds[place:])
            if len(helpers) > 1 and self._is_making(done.call) and not is_used:
                return "of no use"
        return "empty" if self._is_overdrawn() else ""

    def _is_making(self, call: Call) -> bool:
        action = self.tools[call.tool].action
        return action is not None and action.makes_record

    def _is_put_in(self, change: Change, one: Deed, ended: frozenset[Record]) -> bool:
        """Whether a change is about what hangs on a record that is to be ended, and not its end."""
        record = (change.of, change.id)
        if record in ended:
            return _raises(change)
        is_kept = record in one.made or ("state" in _written(change) and record not in one.lowered)
        led = led_to(self.spec, self.chains.world.store, record)
        return is_kept and not ended.isdisjoint(led)

    def _is_overdrawn(self) -> bool:
        """Whether more is taken from a record just made than was put in."""
        made = self.chains.world.store.difference().values()
        return any(before is None and _balance(after) < 0 for before, after in made)

    def _first(self, earlier: Sequence[Deed], last: Sequence[Deed]) -> str:
        pairs = ((one, other) for one in earlier for other in last)
        return next((how for one, other in pairs if (how := self._between(one, other))), "")

    def _between(self, one: Deed, other: Deed) -> str:
        if self._ends(one, other) or self._ends(other, one):
            return "undone"
        if one.own & other.own and not (one.adds and other.adds):
            return "set twice"
        if one.asked & other.looks or other.asked & one.looks:
            return "asked for"
        if {f[1:] for f in one.asked} & other.made or {f[1:] for f in other.asked} & one.made:
            return "asked for"
        return "had" if self._is_had(one, other) or self._is_had(other, one) else ""

    def _is_had(self, one: Deed, other: Deed) -> bool:
        """Whether a call makes what another ends, or obtains what it has obtained."""
        is_anew = not other.is_helper and not _classes(one.made).isdisjoint(_classes(other.lowered))
        return is_anew or bool(one.wanted & other.wanted) or bool(one.named & other.gone)

    def _ends(self, one: Deed, other: Deed) -> bool:
        """Whether a call ends what another has to do with; who leaves wants nothing else."""
        me = (self.spec.person, self.chains.person)
        is_left = me in one.lowered and bool(other.reached - other.lowered - {me})
        return is_left or not one.lowered.isdisjoint(other.reached)

    def _deeds(self, chain: Sequence[Call]) -> list[Deed]:
        """Return what each call has done, in the world after all of them."""
        return [
            self._deed(call, done.changes)
            for call, done in zip(chain, self.chains.done, strict=True)
        ]

    def _deed(self, call: Call, changes: Sequence[Change]) -> Deed:
        store = self.chains.world.store
        reached = {r for c in changes for r in led_to(self.spec, store, (c.of, c.id))}
        fields = {(c.of, c.id, name) for c in changes for name in _written(c)}
        own = self.chains.own(call)
        lowered = {
            (c.of, c.id) for c in changes
            if c.before is not None and c.after.get("state") != c.before.get("state")
            and c.after.get("state") in self._low[c.of]
        }  # fmt: skip
        made = [c for c in changes if c.before is None]
        set_ = {f for f in fields if f[:2] == own and f[2] != "balance"}
        set_ |= {(c.of, c.id, p.name) for c in made if c.of == self.tools[call.tool].of
                 for p in self.tools[call.tool].parameters}  # fmt: skip
        gone = {
            name for c in changes if c.before is not None for name in self._names(c.of, c.before)
            if (c.of, c.id) in lowered or name not in self._names(c.of, c.after)
        }  # fmt: skip
        return Deed(
            is_helper=call.is_helper, adds=call.tool.startswith("add_"),
            lowered=frozenset(lowered), reached=frozenset(reached), own=frozenset(set_),
            asked=frozenset(f for c in made for f in self._asked(call, c)),
            looks=self._looks(call), wanted=self._wanted(call),
            made=frozenset((c.of, c.id) for c in made), gone=frozenset(gone),
            named=frozenset(name for c in made for name in self._names(c.of, c.after)),
        )  # fmt: skip

    def _refused(self, call: Call) -> Deed:
        """Return what a refused call would do with the record on which it acts."""
        tool, own = self.tools[call.tool], self.chains.own(call)
        action = tool.action
        assert action is not None
        is_low = action.target in self._low[tool.of]
        names = {w.partition(".")[2] for w in tool.writes if w.partition(".")[0] == tool.of}
        fields = frozenset((*own, name) for name in names - {"balance"} if own[1])
        reached = led_to(self.spec, self.chains.world.store, own) if own[1] else set[Record]()
        return Deed(
            is_helper=False, adds=call.tool.startswith("add_"),
            lowered=frozenset([own] if is_low else []), reached=frozenset(reached), own=fields,
            asked=frozenset(), looks=self._looks(call), wanted=self._wanted(call),
            made=frozenset([(tool.of, "")] if action.makes_record else []),
            gone=frozenset(), named=frozenset(),
        )  # fmt: skip

    def _asked(self, call: Call, change: Change) -> set[Field]:
        if self.tools[call.tool].part != "approval":
            return set()
        fields = self.spec.classes[change.of].fields
        return {(change.of, one.type.of, change.after[name]) for name, one in fields.items()
                if one.type.kind == "ref" and change.after[name] is not None}  # fmt: skip

    def _looks(self, call: Call) -> frozenset[Field]:
        action, own = self.tools[call.tool].action, self.chains.own(call)
        reads = {read for guard in action.guards for read in guard.reads} if action else set[str]()
        return frozenset((of, *own) for of in {read.partition(".")[0] for read in reads})

    def _names(self, of: str, row: Mapping[str, Any]) -> set[Name]:
        nouns = self.chains.setting.words.nouns.get(of, ())
        slots = {noun: re.findall(r"\{(\w+)", noun) for noun in nouns}
        return {(of, noun, tuple(str(row[name]) for name in names))
                for noun, names in slots.items() if names}  # fmt: skip

    def _wanted(self, call: Call) -> frozenset[Record]:
        tool = self.tools[call.tool]
        return frozenset(
            (f"{tool.of}.{one.type.of}", call.arguments[one.name]) for one in tool.parameters
            if one.type.kind == "ref" and self.spec.classes[one.type.of].owner is None
            and one.type.of not in self._people and call.arguments.get(one.name) is not None
        )  # fmt: skip


def _classes(records: Iterable[Record]) -> set[str]:
    return {of for of, _ in records}


def _written(change: Change) -> set[str]:
    if change.before is None:
        return set()
    return {name for name, value in change.after.items() if change.before[name] != value}


def _raises(change: Change) -> bool:
    """Whether a balance grows: nobody fills what is to be empty."""
    return change.before is not None and _balance(change.after) > _balance(change.before)


def _balance(row: Mapping[str, Any] | None) -> int:
    return (row or {}).get("balance") or 0
