"""A domain as data: entities, relations, states and rules, read from one TOML file.

Everything else (database schema, tools, graph, tasks) is derived from this. A file is checked
whole when it is read; an error names the file, the place, the rule and what was found.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any, cast


class DomainError(ValueError):
    """A domain file breaks a rule."""


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


@dataclass(frozen=True, slots=True)
class Pools:
    """Named sources of column values."""

    table: Mapping[str, Mapping[str, Any]]

    def draw(self, name: str, rng: Random) -> str:
        """Draw one value of pool `name`."""
        pool = self.table[name]
        if "words" in pool:
            return rng.choice(pool["words"])
        if "digits" in pool:
            first = rng.choice("123456789")
            return first + "".join(rng.choice("0123456789") for _ in range(pool["digits"] - 1))
        return re.sub(r"\{(\w+)\}", lambda m: self.draw(m[1], rng), pool["pattern"])

    def pattern(self, name: str) -> str:
        """Return a regular expression of every value of pool `name`."""
        pool = self.table[name]
        if "words" in pool:
            words = sorted(pool["words"], key=len, reverse=True)
            return "(?:" + "|".join(re.escape(word) for word in words) + ")"
        if "digits" in pool:
            return rf"[0-9]{{{pool['digits']}}}"
        parts = re.split(r"\{(\w+)\}", pool["pattern"])
        return "".join(
            self.pattern(part) if number % 2 else re.escape(part)
            for number, part in enumerate(parts)
        )

    def is_number(self, name: str) -> bool:
        """Whether pool `name` holds whole numbers only."""
        pool = self.table[name]
        return "digits" in pool or all(w.isdecimal() for w in pool.get("words", ("",)))


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
        text, where = (folder / f"{name_or_path}.toml").read_text("utf-8"), f"{name_or_path}.toml"
    elif path.is_file():
        text, where = path.read_text("utf-8"), str(path)
    else:
        raise DomainError(
            f"a domain must be one of {', '.join(builtin_domains())} or a TOML file, "
            f"got {str(name_or_path)!r}"
        )
    pools = tomllib.loads((folder / "pools.toml").read_text("utf-8"))
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DomainError(f"{where}: must be TOML: {error}") from error
    try:
        return _domain(raw, pools)
    except DomainError as error:
        raise DomainError(f"{where}: {error}") from error


def _domain(raw: dict[str, Any], shipped_pools: dict[str, Any]) -> Domain:
    allowed = ("name", "title", "entities", "actions", "creates", "updates", "questions", "pools")
    _only(raw, "the file", required=("name", "entities"), optional=allowed)
    return Domain(
        name=raw["name"],
        title=raw.get("title", raw["name"]),
        entities={name: _entity(name, value) for name, value in raw["entities"].items()},
        actions=tuple(_action(value) for value in raw.get("actions", [])),
        creates=tuple(_create(value) for value in raw.get("creates", [])),
        updates=tuple(_update(value) for value in raw.get("updates", [])),
        questions=tuple(_question(value) for value in raw.get("questions", [])),
        pools=Pools({**shipped_pools, **raw.get("pools", {})}),
    )


def _only(
    raw: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(raw, dict):
        raise DomainError(f"{where} must be a table, got {raw!r}")
    keys = cast("dict[str, Any]", raw)
    for key in required:
        if key not in keys:
            raise DomainError(f"{where} must have {key!r}")
    for key in keys:
        if key not in required and key not in optional:
            raise DomainError(f"{where} has the unknown key {key!r}")


def _entity(name: str, raw: dict[str, Any]) -> Entity:
    _only(
        raw,
        f"entity {name!r}",
        required=("prefix", "states", "columns"),
        optional=("plural", "key", "parents"),
    )
    return Entity(
        name=name,
        prefix=raw["prefix"],
        plural=raw.get("plural", name + "s"),
        key=raw.get("key"),
        states=_texts(f"entity {name!r}", "states", raw["states"]),
        columns=dict(raw["columns"]),
        parents=tuple(raw.get("parents", ())),
    )


def _states(where: str, raw: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: _texts(where, name, states) for name, states in raw.items()}


def _action(raw: dict[str, Any]) -> Action:
    _only(
        raw,
        f"action {raw.get('name')!r}",
        required=("name", "on", "from", "to", "say"),
        optional=("requires", "sets"),
    )
    where = f"action {raw['name']!r}"
    return Action(
        name=raw["name"],
        on=raw["on"],
        sources=_texts(where, "from", raw["from"]),
        target=raw["to"],
        requires=_states(where, raw.get("requires", {})),
        sets=dict(raw.get("sets", {})),
        say=_states(where, raw["say"]),
    )


def _create(raw: dict[str, Any]) -> Create:
    _only(
        raw,
        f"create {raw.get('name')!r}",
        required=("name", "makes", "state", "say"),
        optional=("requires", "sets", "arguments"),
    )
    where = f"create {raw['name']!r}"
    return Create(
        name=raw["name"],
        makes=raw["makes"],
        state=raw["state"],
        requires=_states(where, raw.get("requires", {})),
        sets=dict(raw.get("sets", {})),
        arguments=_texts(where, "arguments", raw["arguments"]) if raw.get("arguments") else (),
        say=_texts(where, "say", raw["say"]),
    )


def _update(raw: dict[str, Any]) -> Update:
    _only(raw, f"update {raw.get('name')!r}", required=("name", "on", "column", "say"))
    return Update(
        name=raw["name"],
        on=raw["on"],
        column=raw["column"],
        say=_texts(f"update {raw['name']!r}", "say", raw["say"]),
    )


def _question(raw: dict[str, Any]) -> Question:
    where = f"question about {raw.get('on')!r}"
    _only(raw, where, required=("on", "column", "say"), optional=("state",))
    return Question(
        on=raw["on"], column=raw["column"], state=raw.get("state"), say=_states(where, raw["say"])
    )


def _check(domain: Domain) -> None:
    """Every name that is used must be declared, and nothing may be said twice."""
    entities = domain.entities
    _check_pools(domain.pools, entities)
    _check_circles(entities)
    _distinct(
        "names of tools", [r.name for r in (*domain.actions, *domain.creates, *domain.updates)]
    )
    for entity in entities.values():
        where = f"entity {entity.name!r}"
        _known(where, "parents", entity.parents, tuple(entities))
        _known(where, "columns", entity.columns.values(), tuple(domain.pools.table))
        _known(where, "key", [entity.key] if entity.key else [], tuple(entity.columns))
        if not entity.key and not any(entities[parent].key for parent in entity.parents):
            raise DomainError(f"{where} must have a key, or a parent that has one")
    for action in domain.actions:
        where = f"action {action.name!r}"
        _known(where, "on", [action.on], tuple(entities))
        _known(where, "from/to", [*action.sources, action.target], entities[action.on].states)
        _check_parents(domain, where, action.on, action.requires, action.sets)
        _check_ways(domain, where, action.on, action.say)
    for create in domain.creates:
        where = f"create {create.name!r}"
        _known(where, "makes", [create.makes], tuple(entities))
        _known(where, "state", [create.state], entities[create.makes].states)
        _known(where, "arguments", create.arguments, tuple(entities[create.makes].columns))
        _check_parents(domain, where, create.makes, create.requires, create.sets)
        missing = set(entities[create.makes].columns) - set(create.arguments)
        if missing:
            raise DomainError(f"{where}: arguments must have every column, {sorted(missing)} lack")
        for parent in entities[create.makes].parents:
            if not entities[parent].key:
                raise DomainError(f"{where}: its parent {parent!r} must have a key")
    for update in domain.updates:
        where = f"update {update.name!r}"
        _known(where, "on", [update.on], tuple(entities))
        _known(where, "column", [update.column], tuple(entities[update.on].columns))
        if not entities[update.on].key:
            raise DomainError(f"{where}: {update.on!r} must have a key")
    for question in domain.questions:
        where = f"question about {question.on!r}"
        _known(where, "on", [question.on], tuple(entities))
        _known(where, "column", [question.column], tuple(entities[question.on].columns))
        _known(where, "state", [question.state] if question.state else [],
               entities[question.on].states)  # fmt: skip
        _check_ways(domain, where, question.on, question.say)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _texts(where: str, field: str, value: Any) -> tuple[str, ...]:
    """Check a list of texts: not one text, which would be read letter by letter; not empty."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if not items or not all(isinstance(item, str) and item for item in items):
        raise DomainError(f"{where}: {field} must be a list of texts, got {value!r}")
    return tuple(items)


def _distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(str(name)):
            raise DomainError(f"{what} must be letters, digits and _, got {name!r}")
        if names.count(name) > 1:
            raise DomainError(f"{what} must be distinct, {name!r} is there twice")


def _check_pools(pools: Pools, entities: Mapping[str, Entity]) -> None:
    used = {pool for entity in entities.values() for pool in entity.columns.values()}
    for name in sorted(used & set(pools.table)):
        pool = pools.table[name]
        if "words" in pool and len(set(pool["words"])) < 2:
            raise DomainError(f"pool {name!r} must have two values at least, has {pool['words']!r}")


def _check_circles(entities: Mapping[str, Entity]) -> None:
    """Parents must not lead back to the entity; columns must not take the names of others."""
    for name, entity in entities.items():
        where = f"entity {name!r}"
        columns = [*entity.columns, *(f"{parent}_id" for parent in entity.parents), "id", "state"]
        _distinct(f"{where}: columns", columns)
        _distinct(f"{where}: states", entity.states)
        above, todo = set[str](), list(entity.parents)
        while todo:
            parent = todo.pop()
            if parent == name:
                raise DomainError(f"{where} must not be its own parent, by {entity.parents!r}")
            if parent in entities and parent not in above:
                above.add(parent)
                todo += entities[parent].parents


def _known(where: str, field: str, names: Any, allowed: tuple[str, ...]) -> None:
    for name in names:
        if name not in allowed:
            raise DomainError(f"{where}: {field} must be among {', '.join(allowed)}, got {name!r}")


def _check_parents(
    domain: Domain,
    where: str,
    entity: str,
    requires: Mapping[str, tuple[str, ...]],
    sets: Mapping[str, str],
) -> None:
    parents = domain.entities[entity].parents
    _known(where, "requires", requires, parents)
    _known(where, "sets", sets, parents)
    for parent, states in [*requires.items(), *((p, (s,)) for p, s in sets.items())]:
        _known(where, f"states of {parent}", states, domain.entities[parent].states)


def _check_ways(domain: Domain, where: str, entity: str, say: Mapping[str, Any]) -> None:
    """The ways of naming a record: itself if it has a key, else a keyed parent."""
    own = domain.entities[entity]
    ways = (entity,) if own.key else tuple(p for p in own.parents if domain.entities[p].key)
    _known(where, "say", say, ways)
