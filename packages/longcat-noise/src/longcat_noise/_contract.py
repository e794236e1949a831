"""What tools read and write, as plain JSON: the one place that knows the format.

A line declares a tool, by itself or inside an OpenAI function tool (`{"type": "function", ...}`):

    {"name": "cancel", "reads": ["booking.state"], "writes": ["booking.state"],
     "idempotent": false, "key": "", "parameters": ["booking_id"], "replaces": ["cancel_by_phone"]}

- `tool` is another word for `name`. `reads` and `writes` name fields; a tool with neither is
  *undeclared*, and only gets what is safe for readers and writers alike. `kind: "write"` or `makes`
  declare a writer too; a kind that is not known declares nothing.
- `key` is the argument by which the tool itself knows a call that comes twice.
- `error` is a failure in the tool's own dialect, with `{message}` where the words go.
- Other keys are ignored, so that whoever writes contracts may say more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Role = Literal["reader", "writer", "undeclared"]
READING = frozenset({"get", "search", "query", "find", "list", "scan", "read"})
WRITING = frozenset({"write", "act", "create", "update", "delete"})
"""Kinds of tools; a kind beside these declares nothing."""
DIALECT = '{"error":"{message}"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one tool reads and writes."""

    name: str
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    is_declared: bool = True
    is_idempotent: bool = False
    key: str = ""
    """Argument that makes a repeated call known to the tool."""
    parameters: frozenset[str] | None = None
    """Names of all arguments; `None` if unknown."""
    required: frozenset[str] = frozenset()
    error: str = DIALECT
    """A failure as the tool itself words it; `{message}` stands for the words."""

    @property
    def role(self) -> Role:
        """Whether a call may change the world."""
        if not self.is_declared:
            return "undeclared"
        return "writer" if self.writes else "reader"

    def fail(self, message: str) -> str:
        """Return a failure in the tool's own dialect."""
        words = json.dumps(message, ensure_ascii=False)[1:-1] if "{" in self.error[:1] else message
        return self.error.replace("{message}", words)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Contract:
        """Read a declaration.

        Raises:
            ValueError: It has no name, or a field is not of its type.
        """
        if not isinstance(cast("object", raw), Mapping):
            raise ValueError(f"a contract must be an object, got {raw!r:.80}")
        function: Any = raw.get("function")
        inner = cast("Mapping[str, Any]", function) if isinstance(function, Mapping) else raw
        extra: Any = inner.get("contract", raw.get("contract"))
        merged = {**raw, **inner}
        if isinstance(extra, Mapping):
            merged |= cast("Mapping[str, Any]", extra)
        name = merged.get("name", merged.get("tool"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"a contract must have a name, got {name!r}")
        parameters, required = _parameters(name, merged)
        writes = _names(name, merged, "writes") | _names(name, merged, "makes")
        kind = str(merged.get("kind", ""))
        if not writes and kind in WRITING:
            writes = frozenset({f"{name}:something"})
        is_odd = bool(kind) and kind not in READING and not writes  # may write: spared as such
        known = ("reads", "writes", "makes", "idempotent", "kind")
        idempotent: Any = merged.get("idempotent") or False
        if not isinstance(idempotent, bool):
            raise ValueError(f"{name}: idempotent must be true or false, got {idempotent!r}")
        error = merged.get("error", DIALECT)
        if not isinstance(error, str) or "{message}" not in error:
            raise ValueError(f"{name}: error must be text with {{message}} in it, got {error!r}")
        return cls(
            name=name, reads=_names(name, merged, "reads"), writes=writes,
            is_declared=not is_odd and any(key in merged for key in known),
            is_idempotent=idempotent, key=str(merged.get("key") or ""),
            parameters=parameters, required=required, error=error,
        )  # fmt: skip


def _names(tool: str, raw: Mapping[str, Any], key: str) -> frozenset[str]:
    value: Any = raw.get(key) or ()
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"{tool}: {key} must be a list of names, got {value!r}")
    names = list(cast("Iterable[Any]", value))
    if not all(isinstance(item, str) for item in names):
        raise ValueError(f"{tool}: {key} must be a list of names, got {names!r:.80}")
    return frozenset(names)


def _parameters(tool: str, raw: Mapping[str, Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Return all names and the required ones, from a list of names or a JSON schema."""
    value: Any = raw.get("parameters", raw.get("inputSchema"))
    if value is None:
        return None, frozenset()
    if isinstance(value, Mapping):
        schema = cast("Mapping[str, Any]", value)
        properties: Any = schema.get("properties") or {}
        if not isinstance(properties, Mapping):
            raise ValueError(f"{tool}: properties must be an object, got {properties!r:.80}")
        required = _names(tool, schema, "required")
        return frozenset(map(str, cast("Mapping[str, Any]", properties))), required
    names = _names(tool, raw, "parameters")
    return names, names


@dataclass(frozen=True, slots=True)
class Call:
    """A tool and its arguments."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


def read_arguments(arguments: object) -> dict[str, Any]:
    """Return a call's arguments as a dictionary; empty if they are none."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return {}
    return dict(cast("Mapping[str, Any]", arguments)) if isinstance(arguments, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Book:
    """The contracts of all tools of a world, by name.

    Example:
        >>> book = Book.of([{"name": "look", "reads": ["x"]}, {"name": "put", "writes": ["x"]}])
        >>> [book["look"].role, book["put"].role, book["other"].role]
        ['reader', 'writer', 'undeclared']
    """

    contracts: Mapping[str, Contract] = field(default_factory=dict[str, Contract])

    @classmethod
    def of(cls, declared: Iterable[Contract | Mapping[str, Any]]) -> Book:
        """Gather declarations; one name is declared once."""
        found: dict[str, Contract] = {}
        for item in declared:
            contract = item if isinstance(item, Contract) else Contract.read(item)
            if contract.name in found:
                raise ValueError(f"tool {contract.name!r} must be declared once")
            found[contract.name] = contract
        return cls(found)

    def __getitem__(self, name: str) -> Contract:
        found = self.contracts.get(name)
        return found if found is not None else Contract(name=name, is_declared=False)

    def with_schemas(self, tools: Iterable[Mapping[str, Any]]) -> Book:
        """Keep the tools that are there, and add the names of their arguments.

        A book of a whole domain holds more tools than one episode; none listed: no restriction.
        """
        listed = list(tools)
        found = {} if listed else dict(self.contracts)
        for tool in listed:
            try:
                schema = Contract.read(tool)
            except ValueError:
                continue
            old = self.contracts.get(schema.name)
            if old is None:
                found[schema.name] = schema
            else:
                found[schema.name] = (
                    old if old.parameters is not None else _with_parameters(old, schema)
                )
        return Book(found)

    def check(self, call: Call, known: Iterable[Call] = ()) -> Call | None:
        """Return a read that shows whether a write has happened; `None` if no tool tells.

        Args:
            call: The write.
            known: Calls that an agent knows how to make, those of a golden chain.
        """
        writes = self[call.tool].writes
        readers = [c for c in self._readers() if c.reads & writes and c.name != call.tool]
        names = {reader.name for reader in readers}
        shared = set(map(_text, call.arguments.values()))
        best = [
            k for k in known if k.tool in names and shared & set(map(_text, k.arguments.values()))
        ]
        if best:
            return best[0]
        for reader in sorted(readers, key=lambda r: (-len(r.reads & writes), r.name)):
            if reader.parameters is None:
                continue
            arguments = {k: v for k, v in call.arguments.items() if k in reader.parameters}
            if arguments and reader.required <= set(arguments):
                return Call(reader.name, arguments)
        return None

    def _readers(self) -> list[Contract]:
        return [c for c in self.contracts.values() if c.role == "reader"]

    def checkers(self) -> frozenset[str]:
        """Return the readers by which somebody may see whether a write has happened."""
        written = frozenset[str]().union(
            *(c.writes for c in self.contracts.values() if not c.is_idempotent)
        )
        return frozenset(c.name for c in self._readers() if c.reads & written)

    def settled(self) -> dict[str, str]:
        """Return the readers that may contradict, each with a second source that never does.

        Readers that serve as somebody's second source are true themselves, so that a
        contradiction always ends.
        """
        readers = sorted(self._readers(), key=lambda c: c.name)
        sources: set[str] = set()
        found: dict[str, str] = {}
        for reader in readers:
            if reader.name in sources:
                continue
            others = [
                other.name
                for other in readers
                if other.reads & reader.reads and other.name not in (reader.name, *found)
            ]
            if others:
                found[reader.name] = others[0]
                sources.add(others[0])
        return found


def _with_parameters(old: Contract, schema: Contract) -> Contract:
    return Contract(
        name=old.name, reads=old.reads, writes=old.writes, is_declared=old.is_declared,
        is_idempotent=old.is_idempotent, key=old.key, parameters=schema.parameters,
        required=schema.required, error=old.error,
    )  # fmt: skip


def _text(value: object) -> str:
    return str(value)
