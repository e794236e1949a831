"""A world: calls in, results out; every write guarded, checked against invariants and logged.

A call is a transaction. It is refused, and has then changed nothing, if an argument is not of its
type, a guard does not hold, or an invariant would break on a record that the change reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longcat_envs._database import ToolError
from longcat_envs.lang import (
    WRITERS,
    Guard,
    Hop,
    Refused,
    Rule,
    Spec,
    Type,
    ValueRefused,
    parse,
    show,
    show_days,
)  # fmt: skip

from ._store import Base, Change, Row, Store
from ._tools import PAGE_SIZE, Parameter, Tool, argument_names, derive, label_fields


class CallRefused(ToolError):
    """A call that the world refuses; `guard` says by which rule, if by one."""

    def __init__(self, message: str, guard: Guard | None = None) -> None:
        super().__init__(message)
        self.guard = guard


@dataclass(frozen=True, slots=True)
class Event:
    """What cannot be undone: a record made, a state left, money moved, a record touched."""

    kind: str
    """`made`, `state`, `money`, `refused`."""
    of: str
    id: str
    what: str


@dataclass(frozen=True, slots=True)
class _Reach:
    """A rule, and the way from its record to a field that it reads."""

    rule: Rule
    way: tuple[Hop, ...]


_Shown = tuple[str, bool, Callable[[Any], Any] | None]
"""A field, whether it is an interval, and how it is written if not as it is."""


class Machine:
    """What all worlds of one domain share: tools, and who must be looked at after a change."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.tools: dict[str, Tool] = derive(spec)
        self.schemas = {name: tool.schema() for name, tool in self.tools.items()}
        self.labels = {of: label_fields(spec, of) for of in spec.classes}
        self.forms = {(of, whole): self._form(of, whole) for of in spec.classes
                      for whole in (True, False)}  # fmt: skip
        self.names = {name: frozenset(argument_names(tool)) for name, tool in self.tools.items()}
        self.guards = {rule: Guard(rule.bad.run, rule.reason, frozenset(
            f"{r.of}.{r.name}" for r in rule.bad.reads)) for rule in spec.rules}  # fmt: skip
        self._reaches: dict[tuple[str, str], list[_Reach]] = {}
        for rule in spec.rules:
            for read in rule.bad.reads:
                if not rule.is_scan and read.way is not None and read.name:
                    self._reaches.setdefault((read.of, read.name), []).append(
                        _Reach(rule, read.way)
                    )
        self._read_fields = {of: tuple(name for o, name in self._reaches if o == of)
                             for of in spec.classes}  # fmt: skip
        self._of_new = {of: tuple(r for r in spec.rules if r.of == of and not r.is_scan)
                        for of in spec.classes}  # fmt: skip
        self._scans = tuple(rule for rule in spec.rules if rule.is_scan)
        self.unique = {of: tuple(f.name for f in c.fields.values() if f.is_unique)
                       for of, c in spec.classes.items()}  # fmt: skip
        self.money = {of: tuple(f.name for f in c.fields.values() if f.type.kind == "money")
                      for of, c in spec.classes.items()}  # fmt: skip

    def _form(self, of: str, whole: bool) -> tuple[_Shown, ...]:
        """Return how the fields of a class are written in a result."""
        one = self.spec.classes[of]
        names = (*one.fields, *(["state"] if one.states else [])) if whole else self.labels[of]
        kinds = {n: one.fields[n].type.kind if n in one.fields else "state" for n in names}
        return tuple((n, kind == "days", WRITERS.get(kind)) for n, kind in kinds.items())

    def broken(self, store: Store, changes: list[Change]) -> Rule | None:
        """Return an invariant that the changes broke, if any."""
        looked: set[tuple[int, str]] = set()
        for rule, identifier in self._touched(store, changes):
            key = (id(rule), identifier)
            if key in looked:
                continue
            looked.add(key)
            if rule.bad.run(store, {"self": identifier}):
                return rule
        for rule in self._scans:
            if changes and self._breaks(store, rule):
                return rule
        return None

    def _breaks(self, store: Store, rule: Rule) -> bool:
        return any(rule.bad.run(store, {"self": i}) for i in store.ids(rule.of))

    def _touched(self, store: Store, changes: list[Change]) -> Iterator[tuple[Rule, str]]:
        for change in changes:
            before, after, of = change.before, change.after, change.of
            if before is None:
                for rule in self._of_new[of]:
                    yield rule, change.id
            for name in self._read_fields[of]:
                if before is not None and before[name] == after[name]:
                    continue
                for reach in self._reaches[of, name]:
                    if not reach.way:
                        yield reach.rule, change.id
                        continue
                    for identifier in _backwards(store, change, reach.way):
                        yield reach.rule, identifier

    def violations(self, store: Store) -> list[tuple[Rule, str]]:
        """Return every broken invariant, by looking at every record."""
        return [
            (rule, identifier)
            for rule in self.spec.rules
            for identifier in store.ids(rule.of)
            if rule.bad.run(store, {"self": identifier})
        ]


def _backwards(store: Store, change: Change, way: tuple[Hop, ...]) -> set[str]:
    """Return the records from which the way leads to the changed one, before or after."""
    here = {change.id}
    for hop in reversed(way):
        found: set[str] = set()
        for identifier in here:
            if hop.kind == "ref":
                found.update(store.by(hop.of, hop.name, identifier))
            else:
                found.add(store.row(hop.of, identifier)[hop.name])
                if change.of == hop.of and change.id == identifier and change.before is not None:
                    found.add(change.before[hop.name])
        here = {identifier for identifier in found if identifier}
    return here


class LiveWorld:
    """One world in which calls are made."""

    def __init__(self, machine: Machine, base: Base) -> None:
        self.machine, self.store = machine, Store(machine.spec, base)
        self.events: list[Event] = []
        self.touched: set[tuple[str, str, str]] = set()
        """Class, id and field of everything that was ever written."""
        self._last: tuple[list[Change], int, list[tuple[str, str, str]]] | None = None

    def reset(self) -> None:
        """Return to the start."""
        self.store.reset()
        self.events, self.touched, self._last = [], set(), None

    @property
    def changes(self) -> list[Change]:
        """What the last write changed, in order; empty once it is taken back."""
        return self._last[0] if self._last is not None else []

    def undo(self) -> None:
        """Take back the last write that succeeded, with its events; once for each write."""
        assert self._last is not None, "there is nothing to take back"
        (changes, num_events, touched), self._last = self._last, None
        self.store.undo(changes)
        del self.events[num_events:]
        self.touched.difference_update(touched)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Run one tool.

        Returns:
            A result that JSON can hold.

        Raises:
            CallRefused: The call is refused; nothing changed.
        """
        tool = self.machine.tools.get(name)
        if tool is None:
            raise CallRefused(f"there is no tool {name[:60]!r}")
        values = self.arguments(tool, arguments)
        if tool.kind == "get":
            return self.show(tool.of, values[f"{tool.of}_id"], whole=True)
        if tool.kind == "search":
            return self._search(tool, values)
        if tool.kind == "query":
            return self._query(tool, values)
        return self._write(tool, values)

    def arguments(self, tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the arguments of a call and turn them into values."""
        known = self.machine.names[tool.name]
        if not given.keys() <= known:
            name = next(name for name in given if name not in known)
            takes = ", ".join(sorted(known))
            raise CallRefused(f"{tool.name} takes {takes}, not {str(name)[:60]!r}")
        values: dict[str, Any] = {}
        for one in tool.parameters:
            if one.type.kind == "days":
                self._days(one, given, values)
            elif one.name in given:
                values[one.name] = self._value(one.name, one.type, given[one.name])
            elif one.is_required:
                if not one.type.is_optional:
                    raise CallRefused(f"{one.name} is missing")
                values[one.name] = None
        return values

    def _days(self, one: Parameter, given: Mapping[str, Any], values: dict[str, Any]) -> None:
        names = (f"{one.name}_from", f"{one.name}_until")
        if not one.is_required:
            for name in names:
                if name in given:
                    values[name] = self._value(name, Type("date"), given[name])
            return
        for name in names:
            if name not in given:
                raise CallRefused(f"{name} is missing")
        first, last = (self._value(name, Type("date"), given[name]) for name in names)
        if first >= last:
            raise CallRefused(f"{names[1]} must be after {names[0]}")
        values[one.name] = (first, last)

    def _value(self, name: str, type_: Type, given: Any) -> Any:
        if type_.kind == "ref" and isinstance(given, str) and self.store.has(type_.of, given):
            return given  # whatever is there is the id of a record: nothing to parse
        try:
            value = parse(type_, given)
        except ValueRefused as error:
            raise CallRefused(f"{name} {error}") from None
        if type_.kind == "ref" and value is not None and not self.store.has(type_.of, value):
            raise CallRefused(f"there is no {type_.of.replace('_', ' ')} with id {value}")
        return value

    # -- readers -------------------------------------------------------------------------

    def show(self, of: str, identifier: str, *, whole: bool) -> dict[str, Any]:
        """Write a record as a result holds it."""
        row = self.store.row(of, identifier)
        result: dict[str, Any] = {f"{of}_id": identifier}
        for name, is_days, write in self.machine.forms[of, whole]:
            value = row[name]
            if is_days:
                result[f"{name}_from"], result[f"{name}_until"] = show_days(value)
            else:
                result[name] = value if write is None or value is None else write(value)
        if whole:
            for name, value in self.machine.spec.classes[of].derived.items():
                result[name] = show(value.type, value.run(self.store, {"self": identifier}))
        return result

    def _search(self, tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
        of = tool.of
        page = values.pop("page", 1)
        if page < 1:
            raise CallRefused("page must be 1 or more")
        one, store = self.machine.spec.classes[of], self.store
        found: tuple[str, ...] | list[str] | None = None
        for name, value in values.items():
            type_ = one.fields[name].type if name in one.fields else None
            is_indexed = type_ is not None and type_.kind in ("ref", "text", "enum", "int", "date")
            if is_indexed or name == "state":
                rows = store.by(of, name, value)
                found = rows if found is None or len(rows) < len(found) else found
        ids = store.ids(of) if found is None else found
        matching = [i for i in ids if self._fits(of, i, values)] if values else ids
        if found is not None:
            matching = sorted(matching)
        return self._page(of, matching, page)

    def _fits(self, of: str, identifier: str, values: dict[str, Any]) -> bool:
        row = self.store.row(of, identifier)
        for name, value in values.items():
            if name in row:
                if row[name] != value:
                    return False
            elif name.endswith("_from"):
                if row[name[:-5]][0] != value:
                    return False
            elif row[name[:-6]][1] != value:
                return False
        return True

    def _query(self, tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
        query = tool.query
        assert query is not None
        found: list[str] = []
        for identifier in self.store.ids(query.of):
            if query.condition.run(self.store, {**values, query.variable: identifier}):
                found.append(identifier)
        return self._page(query.of, found, 1)

    def _page(self, of: str, ids: Sequence[str], page: int) -> dict[str, Any]:
        start = (page - 1) * PAGE_SIZE
        rows = [self.show(of, i, whole=False) for i in ids[start : start + PAGE_SIZE]]
        return {"total": len(ids), "page": page, "rows": rows}

    # -- writers -------------------------------------------------------------------------

    def _write(self, tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
        action, store = tool.action, self.store
        assert action is not None
        if not action.makes_record:
            values["self"] = values.pop(f"{action.of}_id")
        store.begin()
        try:
            for statement in action.statements:
                statement(store, values)
            self._check_unique(store.journal)
            rule = self.machine.broken(store, store.journal)
            if rule is not None:
                raise CallRefused(rule.reason, self.machine.guards[rule])
        except Refused as refused:
            store.rollback()
            raise CallRefused(str(refused), refused.guard) from None
        except BaseException:
            store.rollback()
            raise
        changes = store.commit()
        self._log(changes)
        return self._result(action.of, values["self"], changes)

    def _check_unique(self, changes: list[Change]) -> None:
        for change in changes:
            for name in self.machine.unique[change.of]:
                value = change.after[name]
                is_same = change.before is not None and change.before[name] == value
                if not is_same and len(self.store.by(change.of, name, value)) > 1:
                    words = change.of.replace("_", " ")
                    raise CallRefused(f"there is a {words} with this {name} already")

    def _result(self, of: str, identifier: str, changes: list[Change]) -> dict[str, Any]:
        result = self.show(of, identifier, whole=False)
        made = [c for c in changes if c.before is None and (c.of, c.id) != (of, identifier)]
        for change in made:
            result.setdefault(f"new_{change.of}_id", change.id)
        return {"done": True, **result}

    def _log(self, changes: list[Change]) -> None:
        num_events, fresh = len(self.events), list[tuple[str, str, str]]()
        self._last = (changes, num_events, fresh)
        for change in changes:
            if change.before is None:
                self.events.append(Event("made", change.of, change.id, ""))
                continue
            before = change.before
            for name, value in change.after.items():
                if before[name] == value:
                    continue
                if (key := (change.of, change.id, name)) not in self.touched:
                    self.touched.add(key)
                    fresh.append(key)
                if name == "state":
                    what = f"{before[name]} > {value}"
                    self.events.append(Event("state", change.of, change.id, what))
                elif name == "balance" and name in self.machine.money[change.of]:
                    moved = str(value - before[name])
                    self.events.append(Event("money", change.of, change.id, moved))


__all__ = ["CallRefused", "Event", "LiveWorld", "Machine", "Row"]
