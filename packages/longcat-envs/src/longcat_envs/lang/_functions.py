"""The functions of the language: aggregates, `min`, `max`, `first`, `last`, `nights`, `under`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._aggregates import aggregate
from ._combine import reads_of, sql_of
from ._errors import LangError, unknown
from ._spec import Expression, Read, Table, Values
from ._types import DATE, FLAG, INT, MONEY, Type

if TYPE_CHECKING:
    from ._expr import Compiler, Scope


def call(compiler: Compiler, node: ast.Call, scope: Scope) -> Expression:
    """Compile a call of a function of the language."""
    if not isinstance(node.func, ast.Name) or node.keywords:
        raise LangError("only the functions of the language are called here", node)
    name, arguments = node.func.id, node.args
    if len(arguments) == 1 and isinstance(arguments[0], ast.GeneratorExp):
        return aggregate(compiler, name, arguments[0], scope, node)
    if name in ("first", "last", "nights") and len(arguments) == 1:
        return _interval(compiler, name, arguments[0], scope)
    if name in ("min", "max") and len(arguments) == 2:
        left, right = compiler.pair(arguments[0], arguments[1], scope, node)
        if left.type not in (INT, MONEY, DATE) or right.type.is_optional:
            raise LangError(f"{left.type} and {right.type} have no order", node)
        one, other = left.run, right.run
        pick: Callable[[Any, Any], Any] = min if name == "min" else max
        return Expression(
            left.type, lambda table, values: pick(one(table, values), other(table, values)),
            reads_of(left, right),
            sql_of(f"{name.upper()}({left.sql}, {right.sql})", left, right),
        )  # fmt: skip
    if name == "under" and len(arguments) == 3:
        return _under(compiler, node, scope)
    raise unknown("a function", name, ("count", "sum", "min", "max", "exists", "first", "last",
                                       "nights", "under"), node)  # fmt: skip


def _interval(compiler: Compiler, name: str, node: ast.expr, scope: Scope) -> Expression:
    value = compiler.compile(node, scope)
    if value.type.kind != "days" or value.type.is_optional:
        raise LangError(f"{name}() takes an interval of days, got {value.type}", node)
    run, sql = value.run, value.sql
    if name == "nights":
        return Expression(
            INT, lambda table, values: operator.sub(*reversed(run(table, values))), value.reads,
            None if sql is None else f"({sql.format('last')} - {sql.format('first')})",
        )  # fmt: skip
    place = 0 if name == "first" else 1
    return Expression(DATE, lambda table, values: run(table, values)[place], value.reads,
                      None if sql is None else sql.format(name))  # fmt: skip


def _under(compiler: Compiler, node: ast.Call, scope: Scope) -> Expression:
    """`under(a, b, field)`: a is b, or stands below it along the field."""
    lower, upper = (compiler.compile(part, scope) for part in node.args[:2])
    along = node.args[2]
    if lower.type.kind != "ref" or upper.type.plain != lower.type.plain:
        raise LangError("under() takes two records of one class and a field", node)
    of = lower.type.of
    field = along.id if isinstance(along, ast.Name) else ""
    if compiler.declared[of].field_type(field) != Type("ref", of, is_optional=True):
        raise LangError(f"under() takes an optional {of} field of {of}, got {field!r}", along)
    start, goal = lower.run, upper.run

    def run(table: Table, values: Values) -> bool:
        here, wanted, passed = start(table, values), goal(table, values), set[str]()
        while here is not None and here not in passed:
            if here == wanted:
                return True
            passed.add(here)
            here = table.row(of, here)[field]
        return False

    up, t = compiler.fresh("up"), compiler.fresh("t")
    sql = (
        f'EXISTS(WITH RECURSIVE {up}(id) AS (SELECT {lower.sql} UNION SELECT {t}."{field}" '
        f'FROM "{of}" {t} JOIN {up} ON {t}.id = {up}.id WHERE {t}."{field}" IS NOT NULL) '
        f"SELECT 1 FROM {up} WHERE {up}.id IS {upper.sql})"
    )
    reads = reads_of(lower, upper) | {Read(of, field, lower.way)}
    return Expression(FLAG, run, reads, sql_of(sql, lower, upper))
