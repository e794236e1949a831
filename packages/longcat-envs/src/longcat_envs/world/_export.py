"""A world as SQLite: types, keys, foreign keys; and its invariants as queries that find nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from longcat_envs.lang import Field, Spec

from ._store import Store


def _quote(name: str) -> str:
    return f'"{name}"'


def _columns(field: Field) -> list[str]:
    kind, must = field.type.kind, "" if field.type.is_optional else " NOT NULL"
    if kind == "days":
        return [f'"{field.name}_first" INTEGER NOT NULL', f'"{field.name}_last" INTEGER NOT NULL']
    words = f"{_quote(field.name)} {'TEXT' if kind in ('text', 'enum', 'ref') else 'INTEGER'}{must}"
    if field.is_unique:
        words += " UNIQUE"
    if kind == "ref":
        words += f" REFERENCES {_quote(field.type.of)}(id)"
    if kind == "enum":
        options = ", ".join(f"'{option}'" for option in field.type.options)
        words += f" CHECK ({_quote(field.name)} IN ({options}))"
    return [words]


def schema_sql(spec: Spec) -> str:
    """Return the CREATE TABLE statements of a domain; money is in cents, dates are ordinals."""
    tables: list[str] = []
    for name, one in spec.classes.items():
        columns = ["id TEXT PRIMARY KEY"]
        columns += [column for field in one.fields.values() for column in _columns(field)]
        if one.states:
            options = ", ".join(f"'{state}'" for state in one.states)
            columns.append(f"state TEXT NOT NULL CHECK (state IN ({options}))")
        tables.append(f"CREATE TABLE {_quote(name)} (\n  " + ",\n  ".join(columns) + "\n) STRICT;")
    return "\n".join(tables)


def _cells(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        yield from value
    else:
        yield int(value) if isinstance(value, bool) else value


def export(store: Store, path: str = ":memory:") -> sqlite3.Connection:
    """Write a world into a new SQLite database; foreign keys are checked."""
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA foreign_keys = OFF;\n" + schema_sql(store.spec))
    for of in store.spec.classes:
        for identifier in store.ids(of):
            cells = [
                identifier,
                *(c for v in store.row(of, identifier).values() for c in _cells(v)),
            ]
            marks = ", ".join("?" * len(cells))
            connection.execute(f"INSERT INTO {_quote(of)} VALUES ({marks})", cells)
    connection.commit()
    dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
    if dangling:
        raise sqlite3.IntegrityError(f"references lead nowhere: {dangling[:5]}")
    return connection


def violations_by_sql(spec: Spec, connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return each broken invariant as (reason, id), found by SQL alone."""
    found: list[tuple[str, str]] = []
    for rule in spec.rules:
        query = f'SELECT self.id FROM "{rule.of}" self WHERE {rule.bad.sql} ORDER BY self.rowid'
        found += [(rule.reason, row[0]) for row in connection.execute(query)]
    return found
