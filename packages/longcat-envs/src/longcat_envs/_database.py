"""The state of one episode: an in-memory SQLite database with its constraints enforced.

- States are CHECKed, parents are foreign keys, keys are UNIQUE.
- A tool call checks its contract's pre-conditions in code and runs in one transaction.
- Reset restores the image taken when the database was built; nothing of an episode survives it.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from ._spec import Domain, Entity
from ._tools import Tool

Row = dict[str, str]
Tables = dict[str, dict[str, Row]]
"""Table to id to row."""

MAX_LISTED = 5
MAX_TEXT = 100
"""Characters of an argument."""


class ToolError(Exception):
    """A call that the world refuses; its message is the tool's answer."""


def schema_sql(domain: Domain) -> str:
    """Return the CREATE TABLE statements of a domain."""
    return "\n".join(_table_sql(entity) for entity in domain.entities.values())


def _table_sql(entity: Entity) -> str:
    lines = ["id TEXT PRIMARY KEY"]
    lines += [f"{p}_id TEXT NOT NULL REFERENCES {_quote(p)}(id)" for p in entity.parents]
    for column in entity.columns:
        lines.append(f"{_quote(column)} TEXT NOT NULL" + (" UNIQUE" * (column == entity.key)))
    states = ", ".join(f"'{state}'" for state in entity.states)
    lines.append(f"state TEXT NOT NULL CHECK (state IN ({states}))")
    return f"CREATE TABLE {_quote(entity.name)} (\n  " + ",\n  ".join(lines) + "\n) STRICT;"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'  # `order` is a word of SQL


class Database:
    """The tables of one domain in one episode."""

    def __init__(self, domain: Domain, tables: Tables) -> None:
        self.domain = domain
        self._connection = sqlite3.connect(  # one thread may begin an episode, another go on
            ":memory:", isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(schema_sql(domain))
        for name, rows in tables.items():
            for row in rows.values():
                self._insert(name, row)
        self._image = self._connection.serialize()

    def reset(self) -> None:
        """Return to the state at construction."""
        self._connection.deserialize(self._image)
        self._connection.execute("PRAGMA foreign_keys = ON")

    def close(self) -> None:
        """Free the memory."""
        self._connection.close()

    def tables(self) -> Tables:
        """Return every row of every table."""
        return {
            name: {row["id"]: row for row in self._select(name)} for name in self.domain.entities
        }

    def call(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Run one tool.

        Returns:
            A JSON-able result.

        Raises:
            ToolError: An argument is wrong or a pre-condition does not hold; nothing changed.
        """
        _check_arguments(tool, arguments)
        self._connection.execute("BEGIN")
        try:
            result = getattr(self, f"_{tool.kind}")(tool, arguments)
        except sqlite3.IntegrityError as error:
            self._connection.execute("ROLLBACK")
            raise ToolError(f"the database refused: {error}") from error
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result

    # -- one method per kind of tool ---------------------------------------------------------

    def _find(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        column = tool.parameters[0].name
        value = arguments[column]
        rows = self._select(tool.entity, **{column: value})
        if not rows:
            raise ToolError(f"no {tool.entity} with {column} {value}")
        return {f"{tool.entity}_id": rows[0]["id"]}

    def _get(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        row = self._row(tool.entity, arguments[f"{tool.entity}_id"])
        return {key: value for key, value in row.items() if key != "id"}

    def _list(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        (parameter,) = tool.parameters
        assert parameter.entity is not None
        self._row(parameter.entity, arguments[parameter.name])
        return self._briefly(tool, **{parameter.name: arguments[parameter.name]})

    def _scan(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        return self._briefly(tool, state=arguments["state"])

    def _act(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        row = self._row(tool.entity, arguments[f"{tool.entity}_id"])
        self._require(tool, row)
        self._apply(tool, row)
        return {"state": tool.effects[0].state}

    def _create(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        entity = self.domain.entities[tool.entity]
        for parent in entity.parents:
            self._row(parent, arguments[f"{parent}_id"])
        row = {**arguments, "id": self._fresh_id(entity), "state": tool.effects[0].state}
        self._require(tool, row)
        self._insert(entity.name, row)
        self._apply(tool, row)
        return {f"{entity.name}_id": row["id"]}

    def _update(self, tool: Tool, arguments: Mapping[str, str]) -> Any:
        assert tool.column is not None
        row = self._row(tool.entity, arguments[f"{tool.entity}_id"])
        self._write(tool.entity, row["id"], tool.column, arguments[tool.column])
        return {tool.column: arguments[tool.column]}

    # -- parts -------------------------------------------------------------------------------

    def _require(self, tool: Tool, row: Row) -> None:
        for condition in tool.preconditions:
            of = row if condition.entity == tool.entity else self._parent(row, condition.entity)
            if of["state"] not in condition.states:
                raise ToolError(
                    f"{condition.entity} is {of['state']}, must be {' or '.join(condition.states)}"
                )

    def _apply(self, tool: Tool, row: Row) -> None:
        for effect in tool.effects:
            of = row if effect.entity == tool.entity else self._parent(row, effect.entity)
            self._write(effect.entity, of["id"], "state", effect.state)

    def _briefly(self, tool: Tool, **where: str) -> list[Row]:
        rows = self._select(tool.entity, **where)[:MAX_LISTED]
        return [{f"{tool.entity}_id": row["id"], "state": row["state"]} for row in rows]

    def _parent(self, row: Row, entity: str) -> Row:
        return self._row(entity, row[f"{entity}_id"])

    def _row(self, table: str, identifier: str) -> Row:
        rows = self._select(table, id=identifier)
        if not rows:
            raise ToolError(f"no {table} with id {identifier}")
        return rows[0]

    def _select(self, table: str, **where: str) -> list[Row]:
        clause = " AND ".join(f"{_quote(column)} = ?" for column in where)
        sql = f"SELECT * FROM {_quote(table)}" + (f" WHERE {clause}" if where else "")
        cursor = self._connection.execute(sql + " ORDER BY id", tuple(where.values()))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, values, strict=True)) for values in cursor]

    def _write(self, table: str, identifier: str, column: str, value: str) -> None:
        self._connection.execute(
            f"UPDATE {_quote(table)} SET {_quote(column)} = ? WHERE id = ?", (value, identifier)
        )

    def _insert(self, table: str, row: Row) -> None:
        names = ", ".join(_quote(name) for name in row)
        marks = ", ".join("?" for _ in row)
        self._connection.execute(
            f"INSERT INTO {_quote(table)} ({names}) VALUES ({marks})", tuple(row.values())
        )

    def _fresh_id(self, entity: Entity) -> str:
        """The same calls in the same order give the same ids."""
        taken = sorted(row["id"] for row in self._select(entity.name))
        width = max((len(identifier) - len(entity.prefix) for identifier in taken), default=4)
        low, high = 10 ** (width - 1), 10**width
        digest = hashlib.blake2b(",".join(taken).encode(), digest_size=8).digest()
        start = int.from_bytes(digest) % (high - low)
        for step in range(high - low):
            identifier = f"{entity.prefix}{low + (start + step) % (high - low)}"
            if identifier not in taken:
                return identifier
        raise ToolError(f"no id is left for a new {entity.name}")


def _check_arguments(tool: Tool, arguments: Mapping[str, Any]) -> None:
    names = [parameter.name for parameter in tool.parameters]
    for name in names:
        if name not in arguments:
            raise ToolError(f"{name} is missing")
    for name, value in arguments.items():
        if name not in names:
            raise ToolError(f"{tool.name} takes {' and '.join(names)}, not {name}")
        if not isinstance(value, str):
            raise ToolError(f"{name} must be a string")
        if not 0 < len(value) <= MAX_TEXT or not value.isprintable() or value.isspace():
            raise ToolError(f"{name} must be 1 to {MAX_TEXT} printable characters")
    for parameter in tool.parameters:
        if parameter.is_number and not re.fullmatch("[0-9]{1,9}", arguments[parameter.name]):
            raise ToolError(f"{parameter.name} must be a whole number")
        if parameter.choices and arguments[parameter.name] not in parameter.choices:
            raise ToolError(f"{parameter.name} must be {' or '.join(parameter.choices)}")


def difference(before: Tables, after: Tables) -> dict[tuple[str, str], Row | None]:
    """Return the rows that changed, appeared (new row) or vanished (`None`), by table and id."""
    changed: dict[tuple[str, str], Row | None] = {}
    for table in before:
        for identifier in {**before[table], **after[table]}:
            old, new = before[table].get(identifier), after[table].get(identifier)
            if old != new:
                changed[table, identifier] = new
    return changed
