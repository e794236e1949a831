"""From a chain of tools to database rows, a request in words, golden steps and rubrics.

Rows are made so that the chain is executable and the request has one meaning: a record reached
through its parent is the only child in a fitting state, among siblings in states that do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from ._database import Row, Tables
from ._fields import DomainError
from ._spec import Action, Create, Domain, Entity, Question, Update
from ._task import Rubric, Step

Rule = Action | Create | Update | Question

MAX_SIBLINGS = 2
MAX_DRAWS = 10_000
"""Draws for a key that is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One thing to be done, grounded in rows that exist."""

    words: str
    """The request, with `{entity}` where a person names a record."""
    names: dict[str, str]
    """Entity to the key by which the person names it."""
    steps: tuple[Step, ...]
    rubrics: tuple[Rubric, ...]
    answer: str


class TableBuilder:
    """Grows the tables of one environment; ids and keys stay unique."""

    def __init__(self, domain: Domain, rng: Random, *, id_digits: int = 4) -> None:
        self.domain, self.rng = domain, rng
        self._ids = range(10 ** (id_digits - 1), 10**id_digits)
        self.tables: Tables = {name: {} for name in domain.entities}
        self._closed: set[str] = set()

    def add(self, entity: str, *, state: str | None = None, **parents: str) -> Row:
        """Add one row; missing parents are added too."""
        spec, rng = self.domain.entities[entity], self.rng
        row: Row = {"id": self._fresh_id(spec)}
        for parent in spec.parents:
            row[f"{parent}_id"] = parents.get(parent) or self.add(parent)["id"]
        for column, pool in spec.columns.items():
            row[column] = self._fresh_value(entity, column, pool)
        row["state"] = state or rng.choice(spec.states)
        self.tables[entity][row["id"]] = row
        return row

    def close(self, row: Row) -> None:
        """No further row may point at this one: a goal depends on its children as they are."""
        self._closed.add(row["id"])

    def fill(self, num_rows: int) -> None:
        """Add bystanders until every table has at least `num_rows` rows."""
        for name, spec in self.domain.entities.items():
            while len(self.tables[name]) < num_rows:
                parents = {parent: self._open_row(parent) for parent in spec.parents}
                self.add(name, **parents)

    def new_value(self, row: Row, entity: str, column: str) -> str:
        """Draw a value for a column that differs from the present one."""
        pool = self.domain.entities[entity].columns[column]
        while (value := self.domain.pools.draw(pool, self.rng)) == row[column]:
            pass
        return value

    def _open_row(self, entity: str) -> str:
        free = [identifier for identifier in self.tables[entity] if identifier not in self._closed]
        return self.rng.choice(free) if free else self.add(entity)["id"]

    def _fresh_id(self, spec: Entity) -> str:
        while (identifier := f"{spec.prefix}{self.rng.choice(self._ids)}") in self.tables[
            spec.name
        ]:
            pass
        return identifier

    def _fresh_value(self, entity: str, column: str, pool: str) -> str:
        taken = {row[column] for row in self.tables[entity].values()}
        is_key = column == self.domain.entities[entity].key
        for _ in range(MAX_DRAWS):
            if (value := self.domain.pools.draw(pool, self.rng)) not in taken or not is_key:
                return value
        raise DomainError(
            f"pool {pool!r} has too few values for the key of {entity!r}: {len(taken)} are taken"
        )


def ground(rule: Rule, way: str, builder: TableBuilder) -> Goal:
    """Make the rows for one rule and say what is wanted.

    Args:
        rule: The action, create, update or question.
        way: The keyed entity by which the person names the record.
        builder: Receives the rows.
    """
    if isinstance(rule, Create):
        return _ground_create(rule, builder)
    if isinstance(rule, Update):
        return _ground_update(rule, builder)
    if isinstance(rule, Question):
        return _ground_question(rule, way, builder)
    return _ground_action(rule, way, builder)


def _reach(
    builder: TableBuilder,
    entity: str,
    way: str,
    fitting: tuple[str, ...],
    requires: Mapping[str, tuple[str, ...]],
) -> tuple[Row, Row, list[Step]]:
    """Make the record, the keyed record by which it is named, and the calls that reach it."""
    rng, domain = builder.rng, builder.domain
    named = builder.add(way, state=_fit(way, entity, fitting, requires, rng))
    key = domain.entities[way].key
    assert key is not None
    steps = [Step(tool=f"find_{way}", arguments={key: named[key]}, thought=f"need the {way} id")]
    if way == entity:
        builder.close(named)
        return named, named, steps
    spec = domain.entities[entity]
    parents = {
        parent: builder.add(parent, state=_fit(parent, entity, fitting, requires, rng))["id"]
        for parent in spec.parents
        if parent != way
    }
    row = builder.add(entity, state=rng.choice(fitting), **{**parents, way: named["id"]})
    others = [state for state in spec.states if state not in fitting]
    for _ in range(rng.randint(0, MAX_SIBLINGS) if others else 0):
        builder.add(entity, state=rng.choice(others), **{way: named["id"]})
    builder.close(named)
    for parent in parents.values():
        builder.close({"id": parent})
    tool = f"list_{spec.plural}_of_{way}"
    thought = f"need the {entity} that is {' or '.join(fitting)}"
    steps.append(Step(tool=tool, arguments={f"{way}_id": named["id"]}, thought=thought))
    return row, named, steps


def _fit(
    entity: str,
    target: str,
    fitting: tuple[str, ...],
    requires: Mapping[str, tuple[str, ...]],
    rng: Random,
) -> str | None:
    states = fitting if entity == target else requires.get(entity)
    return rng.choice(states) if states else None


def _ground_action(rule: Action, way: str, builder: TableBuilder) -> Goal:
    row, named, steps = _reach(builder, rule.on, way, rule.sources, rule.requires)
    key = builder.domain.entities[way].key
    assert key is not None
    steps.append(Step(tool=rule.name, arguments={f"{rule.on}_id": row["id"]}, thought="act"))
    return Goal(
        words=builder.rng.choice(rule.say[way]),
        names={way: named[key]},
        steps=tuple(steps),
        rubrics=(
            _state_rubric(rule.on, row["id"], {"state": rule.target}),
            *(
                _state_rubric(e, row[f"{e}_id"], {"state": s})
                for e, s in rule.sets.items()
                if builder.tables[e][row[f"{e}_id"]]["state"] != s  # else nothing would change
            ),
        ),
        answer="Done.",
    )


def _ground_question(rule: Question, way: str, builder: TableBuilder) -> Goal:
    states = builder.domain.entities[rule.on].states
    fitting = (rule.state,) if rule.state else states
    row, named, steps = _reach(builder, rule.on, way, fitting, {})
    key = builder.domain.entities[way].key
    assert key is not None
    arguments = {f"{rule.on}_id": row["id"]}
    steps.append(Step(tool=f"get_{rule.on}", arguments=arguments, thought=f"see the {rule.column}"))
    value = row[rule.column]
    pool = builder.domain.entities[rule.on].columns[rule.column]
    return Goal(
        words=builder.rng.choice(rule.say[way]),
        names={way: named[key]},
        steps=tuple(steps),
        rubrics=(
            Rubric(
                kind="answer",
                description=f"the answer gives {value}",
                text=value,
                pattern=builder.domain.pools.pattern(pool),
            ),
        ),
        answer=f"The {rule.column} is {value}.",
    )


def _ground_create(rule: Create, builder: TableBuilder) -> Goal:
    domain, rng = builder.domain, builder.rng
    spec = domain.entities[rule.makes]
    names: dict[str, str] = {}
    steps: list[Step] = []
    arguments: dict[str, str] = {}
    for parent in spec.parents:
        states = rule.requires.get(parent)
        row = builder.add(parent, state=rng.choice(states) if states else None)
        builder.close(row)
        key = domain.entities[parent].key
        assert key is not None
        names[parent], arguments[f"{parent}_id"] = row[key], row["id"]
        steps.append(Step(
            tool=f"find_{parent}", arguments={key: row[key]}, thought=f"need the {parent} id"
        ))  # fmt: skip
    values = {column: domain.pools.draw(spec.columns[column], rng) for column in rule.arguments}
    steps.append(Step(tool=rule.name, arguments={**arguments, **values}, thought="act"))
    created = {**arguments, **values, "state": rule.state}
    what = f"a new {rule.makes} with {_values(created)}"
    return Goal(
        words=_fill(rng.choice(rule.say), values),
        names=names,
        steps=tuple(steps),
        rubrics=(
            Rubric(kind="created", description=what, table=rule.makes, values=created),
            *(
                _state_rubric(e, arguments[f"{e}_id"], {"state": s})
                for e, s in rule.sets.items()
                if builder.tables[e][arguments[f"{e}_id"]]["state"] != s
            ),
        ),
        answer="Done.",
    )  # fmt: skip


def _ground_update(rule: Update, builder: TableBuilder) -> Goal:
    row, named, steps = _reach(
        builder, rule.on, rule.on, builder.domain.entities[rule.on].states, {}
    )
    key = builder.domain.entities[rule.on].key
    assert key is not None
    value = builder.new_value(row, rule.on, rule.column)
    arguments = {f"{rule.on}_id": row["id"], rule.column: value}
    steps.append(Step(tool=rule.name, arguments=arguments, thought="act"))
    words = builder.rng.choice(rule.say)
    return Goal(
        words=words.replace("{" + rule.column + "}", value),
        names={rule.on: named[key]},
        steps=tuple(steps),
        rubrics=(_state_rubric(rule.on, row["id"], {rule.column: value}),),
        answer="Done.",
    )


def _state_rubric(table: str, identifier: str, values: dict[str, str]) -> Rubric:
    description = f"{table} {identifier} ends with {_values(values)}"
    return Rubric(kind="state", description=description, table=table, id=identifier, values=values)


def _values(values: Mapping[str, str]) -> str:
    return ", ".join(f"{column} {value}" for column, value in values.items())


def _fill(words: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        words = words.replace("{" + name + "}", value)
    return words
