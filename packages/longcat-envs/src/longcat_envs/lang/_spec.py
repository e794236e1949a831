"""A domain after reading: classes, actions, rules, each with what it reads and writes.

Nothing here is text any more, and nothing refers to Python's `ast`: expressions are closures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ._types import Type

Values = dict[str, Any]
"""Names to values while an expression or an action runs; references are ids."""


class Table(Protocol):
    """What an expression may ask a world for."""

    @property
    def today(self) -> int:
        """The virtual day, an ordinal."""
        ...

    def row(self, of: str, identifier: str) -> Mapping[str, Any]:
        """Return one record."""
        ...

    def ids(self, of: str) -> Sequence[str]:
        """Return the ids of every record of a class, oldest first."""
        ...

    def by(self, of: str, name: str, value: Any) -> Sequence[str]:
        """Return the ids of the records whose indexed field has this value."""
        ...

    def write(self, of: str, identifier: str, name: str, value: Any) -> None:
        """Change one field."""
        ...

    def insert(self, of: str, row: dict[str, Any]) -> str:
        """Add a record; return its id."""
        ...


Run = Callable[[Table, Values], Any]


@dataclass(frozen=True, slots=True)
class Hop:
    """One step from a record to others.

    `ref`: from a record of `of` along its field `name`. `rows`: from a record to the records of
    `of` whose field `name` points at it.
    """

    kind: Literal["ref", "rows"]
    of: str
    name: str


@dataclass(frozen=True, slots=True)
class Read:
    """A field that an expression reads, and the way to it from the record it is about."""

    of: str
    name: str
    way: tuple[Hop, ...] | None
    """`None`: the way cannot be gone backwards."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A typed expression: a closure, what it reads, and its SQL where it has one."""

    type: Type
    run: Run
    reads: frozenset[Read] = frozenset()
    sql: str | None = None
    """An SQL expression over the exported database; `None` if it depends on more than rows."""
    way: tuple[Hop, ...] | None = None
    """For references: how the record is reached from the one the expression is about."""
    symbol: str = ""
    """A bare word that is an option of some enumeration; of type `symbol`."""
    fixed: tuple[Any, ...] = ()
    """The value, if it is written out and therefore always the same."""


@dataclass(frozen=True, slots=True)
class Field:
    """A stored field of a class."""

    name: str
    type: Type
    is_unique: bool = False
    default: Expression | None = None
    """Given at creation when the field is no parameter of it."""
    is_fixed: bool = False
    """Never changed by a tool of its own."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition without which an action is refused."""

    run: Run
    reason: str
    reads: frozenset[str]
    is_state: bool = False
    """The record is not in a state from which this transition starts."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What an action or a reader touches, as `class.field` names."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()
    """Classes of which it makes records."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something that changes the world."""

    name: str
    of: str
    part: str
    parameters: tuple[tuple[str, Type], ...]
    statements: tuple[Run, ...]
    guards: tuple[Guard, ...]
    contract: Contract
    sources: tuple[str, ...] = ()
    """States from which its transition starts; empty if it has none."""
    target: str = ""
    is_inside: bool = False
    """Only staff ask for it."""
    makes_record: bool = False
    """It is the creation of a record rather than an act on one."""
    edits: str = ""
    """The field, if all it does is to change one."""
    shape: str = ""
    """Types, guards and effects with the names taken out: equal shapes are the same thing."""

    @property
    def is_hidden(self) -> bool:
        """Called by other actions only."""
        return self.name.startswith("_")


@dataclass(frozen=True, slots=True)
class Rule:
    """An invariant: `bad` must hold for no record of the class."""

    of: str
    bad: Expression
    reason: str
    is_scan: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A reader of its own: the records of a class for which a condition holds."""

    name: str
    part: str
    parameters: tuple[tuple[str, Type], ...]
    of: str
    variable: str
    condition: Expression
    is_about: str = ""
    """The class whose record is its first argument, if it is a reader of a record."""


@dataclass(frozen=True, slots=True)
class Class:
    """A kind of record."""

    name: str
    fields: dict[str, Field]
    derived: dict[str, Expression]
    states: tuple[str, ...]
    ends: frozenset[str]
    """States that nothing leaves."""
    owner: tuple[str, ...] | None
    """The fields that lead from a record to the person it belongs to; `()` for the person."""
    is_made_by_tools: bool
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """One domain."""

    name: str
    title: str
    classes: dict[str, Class]
    actions: dict[str, Action]
    """By the name of the tool."""
    queries: dict[str, Query]
    rules: tuple[Rule, ...]
    parts: tuple[str, ...]
    person: str
    """The class of the people who ask."""
    source: str = field(repr=False, default="")
    lines: int = 0

    @property
    def clauses(self) -> tuple[str, ...]:
        """The policy: every reason for which something is refused, once, in order."""
        reasons = [g.reason for a in self.actions.values() for g in a.guards if not g.is_state]
        return tuple(dict.fromkeys([*reasons, *(rule.reason for rule in self.rules)]))
