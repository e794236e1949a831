"""Expressions made of expressions: closures, what they read, their SQL."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ._spec import Expression, Read, Run
from ._types import Type


def binary(
    type_: Type, act: Callable[[Any, Any], Any], left: Expression, right: Expression, name: str
) -> Expression:
    """Return an operator between two values; a written value on the right is looked at once."""
    return Expression(
        type_,
        _act(act, left.run, right),
        reads_of(left, right),
        sql_of(f"({left.sql} {name} {right.sql})", left, right),
    )


def _act(act: Callable[[Any, Any], Any], one: Run, right: Expression) -> Run:
    other = right.run
    if not right.fixed:
        return lambda table, values: act(one(table, values), other(table, values))
    (value,) = right.fixed
    if act is operator.eq:
        return lambda table, values: one(table, values) == value
    return lambda table, values: act(one(table, values), value)


def reads_of(*parts: Expression) -> frozenset[Read]:
    """Return what any of the parts reads."""
    return frozenset[Read]().union(*(part.reads for part in parts))


def sql_of(text: str, *parts: Expression) -> str | None:
    """Return the SQL made of the parts' SQL; `None` if a part has none."""
    return None if any(part.sql is None for part in parts) else text


def join(word: str, parts: list[Expression]) -> str | None:
    """Return the SQL of `and` and `or`."""
    return sql_of("(" + word.join(str(part.sql) for part in parts) + ")", *parts)
