"""Worlds: rows over a shared base, calls, invariants, events, and their form in SQLite."""

from ._export import export, schema_sql, violations_by_sql
from ._load import builtin_worlds, load_machine, load_source
from ._store import ID_DIGITS, Base, Change, Row, Store, empty_base
from ._tools import Parameter, Tool, argument_names, derive
from ._world import CallRefused, Event, LiveWorld, Machine

__all__ = [
    "ID_DIGITS", "Base", "CallRefused", "Change", "Event", "LiveWorld", "Machine", "Parameter",
    "Row", "Store", "Tool", "argument_names", "builtin_worlds", "derive", "empty_base", "export",
    "load_machine", "load_source", "schema_sql", "violations_by_sql",
]  # fmt: skip
