"""A domain as data: entities, relations, states and rules, read from one TOML file.

Everything else (database schema, tools, graph, tasks) is derived from this. A file is checked
whole when it is read; an error names the file, the place, the rule and what was found.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ._fields import DomainError, distinct, known, name, only, rows, says, table, text, texts
from ._pools import Pools, check_pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A kind of record: one table."""

    name: str
    prefix: str
    """First letter of its ids, such as `M` in `M4821`."""
    plural: str
    key: str | None
    """The column by which people name a record; entities without one are reached by a parent."""
    states: tuple[str, ...]
    columns: dict[str, str]
    """Column to the pool its values come from."""
    parents: tuple[str, ...]
    """Entities this one points at, one foreign key each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A state change of one record, under conditions on it and on its parents."""

    name: str
    on: str
    sources: tuple[str, ...]
    target: str
    requires: dict[str, tuple[str, ...]]
    """Parent entity to the states it may be in."""
    sets: dict[str, str]
    """Parent entity to the state it is put in."""
    say: dict[str, tuple[str, ...]]
    """Keyed entity by which the record is named, to ways of asking for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """A new record that points at its parents."""

    name: str
    makes: str
    state: str
    requires: dict[str, tuple[str, ...]]
    sets: dict[str, str]
    arguments: tuple[str, ...]
    say: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A new value in one column of a keyed record."""

    name: str
    on: str
    column: str
    say: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something a person may want to know; answering it must change nothing."""

    on: str
    column: str
    state: str | None
    """For records reached by a parent: the state that singles one out."""
    say: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One world: its entities and everything that may happen to them."""

    name: str
    title: str
    entities: dict[str, Entity]
    actions: tuple[Action, ...]
    creates: tuple[Create, ...]
    updates: tuple[Update, ...]
    questions: tuple[Question, ...]
    pools: Pools

    def __post_init__(self) -> None:
        _check(self)


def builtin_domains() -> tuple[str, ...]:
    """Names of the domains that ship with this package."""
    folder = resources.files("longcat_envs") / "domains"
    names = (entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(name[:-5] for name in names if name != "pools.toml"))


def load_domain(name_or_path: str | Path) -> Domain:
    """Read a shipped domain by name, or a TOML file by path.

    Raises:
        DomainError: The file is missing, is not TOML, or breaks a rule.
    """
    folder = resources.files("longcat_envs") / "domains"
    path = Path(name_or_path)
    if str(name_or_path) in builtin_domains():
        content, where = (folder / f"{name_or_path}.toml").read_bytes(), f"{name_or_path}.toml"
    elif _is_file(path):
        content, where = path.read_bytes(), str(path)
    else:
        raise DomainError(
            f"a domain must be one of {', '.join(builtin_domains())} or a TOML file, "
            f"got {str(name_or_path)!r}"
        )
    pools = tomllib.loads((folder / "pools.toml").read_text("utf-8"))
    try:
        raw = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DomainError(f"{where}: must be TOML: {error}") from error
    try:
        return _domain(raw, pools)
    except DomainError as error:
        raise DomainError(f"{where}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _domain(raw: dict[str, Any], shipped_pools: dict[str, Any]) -> Domain:
    allowed = ("name", "title", "entities", "actions", "creates", "updates", "questions", "pools")
    only(raw, "the file", required=("name", "entities"), optional=allowed)
    return Domain(
        name=name("", "name", raw["name"]),
        title=text("", "title", raw.get("title", raw["name"])),
        entities={
            key: _entity(key, value)
            for key, value in table("", "entities", raw["entities"]).items()
        },
        actions=tuple(_action(value) for value in rows("", "actions", raw.get("actions", []))),
        creates=tuple(_create(value) for value in rows("", "creates", raw.get("creates", []))),
        updates=tuple(_update(value) for value in rows("", "updates", raw.get("updates", []))),
        questions=tuple(
            _question(value) for value in rows("", "questions", raw.get("questions", []))
        ),
        pools=Pools({**shipped_pools, **table("", "pools", raw.get("pools", {}))}),
    )


def _entity(of: str, raw: Any) -> Entity:
    where = f"entity {of!r}"
    only(
        raw, where, required=("prefix", "states", "columns"), optional=("plural", "key", "parents")
    )
    key = raw.get("key")
    return Entity(
        name=of,
        prefix=name(where, "prefix", raw["prefix"]),
        plural=name(where, "plural", raw.get("plural", of + "s")),
        key=None if key is None else name(where, "key", key),
        states=texts(where, "states", raw["states"]),
        columns=_names(where, "columns", raw["columns"]),
        parents=texts(where, "parents", raw["parents"]) if raw.get("parents") else (),
    )


def _names(where: str, field: str, raw: Any) -> dict[str, str]:
    return {key: name(where, key, value) for key, value in table(where, field, raw).items()}


def _lists(where: str, field: str, raw: Any) -> dict[str, tuple[str, ...]]:
    return {key: texts(where, key, value) for key, value in table(where, field, raw).items()}


def _action(raw: dict[str, Any]) -> Action:
    only(
        raw,
        f"action {raw.get('name')!r}",
        required=("name", "on", "from", "to", "say"),
        optional=("requires", "sets"),
    )
    where = f"action {raw['name']!r}"
    return Action(
        name=name(where, "name", raw["name"]),
        on=name(where, "on", raw["on"]),
        sources=texts(where, "from", raw["from"]),
        target=name(where, "to", raw["to"]),
        requires=_lists(where, "requires", raw.get("requires", {})),
        sets=_names(where, "sets", raw.get("sets", {})),
        say=_lists(where, "say", raw["say"]),
    )


def _create(raw: dict[str, Any]) -> Create:
    only(
        raw,
        f"create {raw.get('name')!r}",
        required=("name", "makes", "state", "say"),
        optional=("requires", "sets", "arguments"),
    )
    where = f"create {raw['name']!r}"
    return Create(
        name=name(where, "name", raw["name"]),
        makes=name(where, "makes", raw["makes"]),
        state=name(where, "state", raw["state"]),
        requires=_lists(where, "requires", raw.get("requires", {})),
        sets=_names(where, "sets", raw.get("sets", {})),
        arguments=texts(where, "arguments", raw["arguments"]) if raw.get("arguments") else (),
        say=texts(where, "say", raw["say"]),
    )


def _update(raw: dict[str, Any]) -> Update:
    where = f"update {raw.get('name')!r}"
    only(raw, where, required=("name", "on", "column", "say"))
    return Update(
        name=name(where, "name", raw["name"]),
        on=name(where, "on", raw["on"]),
        column=name(where, "column", raw["column"]),
        say=texts(where, "say", raw["say"]),
    )


def _question(raw: dict[str, Any]) -> Question:
    where = f"question about {raw.get('on')!r}"
    only(raw, where, required=("on", "column", "say"), optional=("state",))
    return Question(
        on=name(where, "on", raw["on"]),
        column=name(where, "column", raw["column"]),
        state=raw.get("state"),
        say=_lists(where, "say", raw["say"]),
    )


MIN_KEYS = 10
"""Values that a key's pool must have at least: each record needs one of its own."""


def _check(domain: Domain) -> None:
    """Every name that is used must be declared, and nothing may be said twice."""
    entities = domain.entities
    distinct("names of entities", list(entities))
    distinct("prefixes of entities", [entity.prefix for entity in entities.values()])
    distinct("plurals of entities", [entity.plural for entity in entities.values()])
    rules = (*domain.actions, *domain.creates, *domain.updates)
    if not rules and not domain.questions:
        raise DomainError("the file must have an action, a create, an update or a question")
    for entity in entities.values():
        _check_entity(domain, entity)
    distinct("names of tools", [*(r.name for r in rules), *_readers(entities)])
    for action in domain.actions:
        where = f"action {action.name!r}"
        known(where, "on", [action.on], tuple(entities))
        known(where, "from/to", [*action.sources, action.target], entities[action.on].states)
        if action.target in action.sources:
            raise DomainError(f"{where}: to must not be in from, got {action.target!r}")
        _check_parents(domain, where, action.on, action.requires, action.sets)
        _check_ways(domain, where, action.on, action.say)
    for create in domain.creates:
        _check_create(domain, create)
    for update in domain.updates:
        where = f"update {update.name!r}"
        known(where, "on", [update.on], tuple(entities))
        known(where, "column", [update.column], tuple(entities[update.on].columns))
        if not entities[update.on].key:
            raise DomainError(f"{where}: {update.on!r} must have a key")
        says(where, update.say, (update.on, update.column))
    for question in domain.questions:
        where = f"question about {question.on!r}"
        known(where, "on", [question.on], tuple(entities))
        known(where, "column", [question.column], tuple(entities[question.on].columns))
        known(where, "state", [question.state] if question.state else [],
               entities[question.on].states)  # fmt: skip
        _check_ways(domain, where, question.on, question.say)


def _readers(entities: Mapping[str, Entity]) -> list[str]:
    """Names that `_tools.py` gives to what it derives."""
    found: list[str] = []
    for entity in entities.values():
        found += [f"get_{entity.name}", f"scan_{entity.plural}"]
        found += [f"find_{entity.name}"] if entity.key else []
        found += [f"list_{entity.plural}_of_{parent}" for parent in entity.parents]
    return found


def _check_entity(domain: Domain, entity: Entity) -> None:
    """Parents must not lead back to the entity; columns must not take the names of others."""
    where, entities = f"entity {entity.name!r}", domain.entities
    if entity.name.lower().startswith("sqlite_"):
        raise DomainError(f"{where}: names that begin with sqlite_ are the database's own")
    columns = [*entity.columns, *(f"{parent}_id" for parent in entity.parents), "id", "state"]
    distinct(f"{where}: columns", columns)
    distinct(f"{where}: states", entity.states)
    known(where, "parents", entity.parents, tuple(entities))
    known(where, "columns", entity.columns.values(), tuple(domain.pools.table))
    known(where, "key", [entity.key] if entity.key else [], tuple(entity.columns))
    for pool in entity.columns.values():
        check_pool(domain.pools, pool)
    if entity.key and domain.pools.size(entity.columns[entity.key]) < MIN_KEYS:
        raise DomainError(
            f"{where}: the pool {entity.columns[entity.key]!r} of its key must have {MIN_KEYS} "
            f"values at least, has {domain.pools.size(entity.columns[entity.key])}"
        )
    if not entity.key and not any(entities[parent].key for parent in entity.parents):
        raise DomainError(f"{where} must have a key, or a parent that has one")
    above, todo = set[str](), list(entity.parents)
    while todo:
        parent = todo.pop()
        if parent == entity.name:
            raise DomainError(f"{where} must not be its own parent, by {entity.parents!r}")
        if parent in entities and parent not in above:
            above.add(parent)
            todo += entities[parent].parents


def _check_create(domain: Domain, create: Create) -> None:
    where = f"create {create.name!r}"
    known(where, "makes", [create.makes], tuple(domain.entities))
    made = domain.entities[create.makes]
    known(where, "state", [create.state], made.states)
    known(where, "arguments", create.arguments, tuple(made.columns))
    _check_parents(domain, where, create.makes, create.requires, create.sets)
    missing = set(made.columns) - set(create.arguments)
    if missing:
        raise DomainError(f"{where}: arguments must have every column, {sorted(missing)} lack")
    for parent in made.parents:
        if not domain.entities[parent].key:
            raise DomainError(f"{where}: its parent {parent!r} must have a key")
    says(where, create.say, (*made.parents, *create.arguments))


def _check_parents(
    domain: Domain,
    where: str,
    entity: str,
    requires: Mapping[str, tuple[str, ...]],
    sets: Mapping[str, str],
) -> None:
    parents = domain.entities[entity].parents
    known(where, "requires", requires, parents)
    known(where, "sets", sets, parents)
    for parent, states in [*requires.items(), *((p, (s,)) for p, s in sets.items())]:
        known(where, f"states of {parent}", states, domain.entities[parent].states)


def _check_ways(domain: Domain, where: str, entity: str, say: Mapping[str, Any]) -> None:
    """The ways of naming a record: itself if it has a key, else a keyed parent."""
    own = domain.entities[entity]
    ways = (entity,) if own.key else tuple(p for p in own.parents if domain.entities[p].key)
    known(where, "say", say, ways)
    if not say:
        raise DomainError(f"{where}: say must have a way of asking, by {' or '.join(ways)}")
    for way, words in say.items():
        says(where, words, (way,))
