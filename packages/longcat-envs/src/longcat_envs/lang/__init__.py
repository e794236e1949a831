"""The language of domains: read, typed, compiled; every rule is written once.

`read_spec` turns a file into a `Spec`: classes, actions, invariants and readers, each with a
closure, what it reads and writes, and, for invariants, one SQL query that must return nothing.
"""

from ._actions import Refused
from ._errors import LangError
from ._raw import PartText
from ._read import read_spec
from ._spec import (
    Action,
    Class,
    Contract,
    Expression,
    Field,
    Guard,
    Hop,
    Query,
    Read,
    Rule,
    Spec,
    Table,
)
from ._types import WRITERS, Type, ValueRefused, json_schema, parse, show, show_days, show_money

__all__ = [
    "WRITERS", "Action", "Class", "Contract", "Expression", "Field", "Guard", "Hop",
    "LangError", "PartText", "Query", "Read", "Refused", "Rule", "Spec", "Table", "Type",
    "ValueRefused", "json_schema", "parse", "read_spec", "show", "show_days", "show_money",
]  # fmt: skip
