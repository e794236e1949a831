"""Tools with typed contracts, derived from a domain.

A contract says what a call needs (ids of records, states they must be in), what it yields (ids it
reveals) and what it reads and writes. The dependency graph, the planner and the audit use only
this; so does the executor in `_database.py`. Kinds of tool:

    find    a record by its key            yields its id
    get     a record by its id             reads its columns
    list    the children of a record       yields their ids and states
    scan    the records in a state         yields their ids
    act     a state change                 writes states
    create  a new record                   writes a row, yields its id
    update  a new column value             writes one column
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ._spec import Domain

Kind = Literal["find", "get", "list", "scan", "act", "create", "update"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument of a tool; all arguments are strings and all are required."""

    name: str
    description: str
    entity: str | None = None
    """The entity whose id this is; `None` for a value that the user knows."""
    choices: tuple[str, ...] = ()
    is_number: bool = False
    """Whether the column holds whole numbers only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The record, or the parent it points at, must be in one of these states."""

    entity: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The record, or the parent it points at, is put into this state."""

    entity: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One function an agent may call, with its contract."""

    name: str
    kind: Kind
    description: str
    entity: str
    """The entity it is about; for `list`, the children."""
    parameters: tuple[Parameter, ...]
    preconditions: tuple[Condition, ...] = ()
    effects: tuple[Effect, ...] = ()
    column: str | None = None
    yields: frozenset[str] = frozenset()
    """Entities whose ids a result reveals."""
    reads: frozenset[str] = frozenset()
    """`table.column` names; `table.*` for all."""
    writes: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """Entities whose ids must be known before the call."""
        return frozenset(p.entity for p in self.parameters if p.entity is not None)

    def schema(self) -> dict[str, Any]:
        """Return the tool as an OpenAI function tool."""
        properties = {
            p.name: {"type": "string", "description": p.description}
            | ({"enum": list(p.choices)} if p.choices else {})
            for p in self.parameters
        }
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": [p.name for p in self.parameters],
                    "additionalProperties": False,
                },
            },
        }


def _id(entity: str) -> Parameter:
    return Parameter(name=f"{entity}_id", description=f"Id of the {entity}.", entity=entity)


def _value(domain: Domain, pool: str, name: str, description: str) -> Parameter:
    return Parameter(name=name, description=description, is_number=domain.pools.is_number(pool))


def derive_tools(domain: Domain) -> dict[str, Tool]:
    """Return every tool of a domain, by name, in a fixed order."""
    tools = [*_readers(domain), *_actions(domain), *_creates(domain), *_updates(domain)]
    return {tool.name: tool for tool in tools}


def _readers(domain: Domain) -> list[Tool]:
    tools: list[Tool] = []
    for entity in domain.entities.values():
        name = entity.name
        everything = frozenset({f"{name}.*"})
        if entity.key:
            tools.append(Tool(
                name=f"find_{name}", kind="find", entity=name, column=entity.key,
                description=f"Find the id of a {name} by {entity.key}.",
                parameters=(Parameter(name=entity.key, description=f"The {entity.key}."),),
                yields=frozenset({name}), reads=frozenset({f"{name}.{entity.key}"}),
            ))  # fmt: skip
        tools.append(Tool(
            name=f"get_{name}", kind="get", entity=name, parameters=(_id(name),),
            description=f"Show one {name}.", reads=everything,
        ))  # fmt: skip
        for parent in entity.parents:
            tools.append(Tool(
                name=f"list_{entity.plural}_of_{parent}", kind="list", entity=name,
                parameters=(_id(parent),), description=f"List the {entity.plural} of a {parent}.",
                yields=frozenset({name}), reads=frozenset({f"{name}.{parent}_id"}),
            ))  # fmt: skip
        state = Parameter(name="state", description="The state.", choices=entity.states)
        tools.append(Tool(
            name=f"scan_{entity.plural}", kind="scan", entity=name, parameters=(state,),
            description=f"List some {entity.plural} in a state.",
            yields=frozenset({name}), reads=frozenset({f"{name}.state"}),
        ))  # fmt: skip
    return tools


def _actions(domain: Domain) -> list[Tool]:
    return [
        Tool(
            name=a.name,
            kind="act",
            entity=a.on,
            parameters=(_id(a.on),),
            description=f"Put a {a.on} that is {' or '.join(a.sources)} into {a.target}.",
            preconditions=(
                Condition(entity=a.on, states=a.sources),
                *(Condition(entity=e, states=s) for e, s in a.requires.items()),
            ),
            effects=(
                Effect(entity=a.on, state=a.target),
                *(Effect(entity=e, state=s) for e, s in a.sets.items()),
            ),
            writes=frozenset(f"{e}.state" for e in (a.on, *a.sets)),
        )
        for a in domain.actions
    ]


def _creates(domain: Domain) -> list[Tool]:
    tools: list[Tool] = []
    for c in domain.creates:
        entity = domain.entities[c.makes]
        values = tuple(_value(domain, entity.columns[n], n, f"The {n}.") for n in c.arguments)
        tools.append(Tool(
            name=c.name, kind="create", entity=c.makes,
            parameters=(*(_id(p) for p in entity.parents), *values),
            description=f"Make a new {c.makes} for a {' and a '.join(entity.parents)}.",
            preconditions=tuple(Condition(entity=e, states=s) for e, s in c.requires.items()),
            effects=(Effect(entity=c.makes, state=c.state),
                     *(Effect(entity=e, state=s) for e, s in c.sets.items())),
            yields=frozenset({c.makes}),
            writes=frozenset({f"{c.makes}.*", *(f"{e}.state" for e in c.sets)}),
        ))  # fmt: skip
    return tools


def _updates(domain: Domain) -> list[Tool]:
    return [
        Tool(
            name=u.name,
            kind="update",
            entity=u.on,
            column=u.column,
            parameters=(
                _id(u.on),
                _value(
                    domain,
                    domain.entities[u.on].columns[u.column],
                    u.column,
                    f"The new {u.column}.",
                ),
            ),
            description=f"Change the {u.column} of a {u.on}.",
            writes=frozenset({f"{u.on}.{u.column}"}),
        )
        for u in domain.updates
    ]
