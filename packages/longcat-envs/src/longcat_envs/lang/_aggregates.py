"""`count`, `sum`, `min`, `max` and `exists` over the records of a class.

A condition `x.field == something` that does not speak of `x` on its other side is a link: the
records are found by the field's index, and the way to them can be gone backwards.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ._errors import LangError, unknown
from ._spec import Expression, Hop, Read, Run, Table, Values
from ._types import DATE, FLAG, INT, MONEY, Type

if TYPE_CHECKING:
    from ._expr import Compiler, Scope

Rows = Callable[[Table, Values], Iterator[None]]
"""Binds the variable to one fitting record after the other."""


def aggregate(
    compiler: Compiler, name: str, node: ast.GeneratorExp, scope: Scope, call: ast.Call
) -> Expression:
    """Compile one aggregate."""
    if name not in ("count", "sum", "min", "max", "exists"):
        raise unknown("an aggregate", name, ("count", "sum", "min", "max", "exists"), call)
    variable, of, conditions = read_loop(compiler, node.generators, call)
    alias = compiler.fresh(variable)
    link, rest = _split(compiler, variable, of, conditions, scope)
    row = Expression(
        Type("ref", of), lambda table, values: values[alias], sql=f"{alias}.id",
        way=_way(link, of),
    )  # fmt: skip
    inner = scope.bind(variable, row)
    tests = [compiler.compile(test, inner, FLAG) for test in rest]
    if link:
        tests.append(compiler.compile(link[2], inner, FLAG))
    value = compiler.compile(node.elt, inner)
    reads = frozenset[Read]().union(value.reads, *(test.reads for test in tests))
    if not link:
        reads |= {Read(of, "", None)}  # any new record counts
    rows = _rows(alias, of, link, [test.run for test in tests[: len(rest)]])
    sql = None
    if all(test.sql is not None for test in tests) and value.sql is not None:
        where = " AND ".join(str(test.sql) for test in tests) or "1"
        sql = _SQL[name].format(value=value.sql, rows=f'"{of}" {alias} WHERE {where}')
    return _FOLDS[name](value, rows, reads, sql, node)


def read_loop(
    compiler: Compiler, generators: list[ast.comprehension], node: ast.expr
) -> tuple[str, str, list[ast.expr]]:
    """Return variable, class and conditions of `for x in class if ...`."""
    if len(generators) != 1 or generators[0].is_async:
        raise LangError("one loop over one class: for x in class if ...", node)
    loop = generators[0]
    if not isinstance(loop.target, ast.Name) or not isinstance(loop.iter, ast.Name):
        raise LangError("a loop names a variable and a class: for x in class", loop.iter)
    if loop.iter.id not in compiler.declared:
        raise unknown("a class", loop.iter.id, compiler.declared, loop.iter)
    conditions: list[ast.expr] = []
    for test in loop.ifs:
        is_and = isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)
        conditions += test.values if is_and and isinstance(test, ast.BoolOp) else [test]
    return loop.target.id, loop.iter.id, conditions


Link = tuple[str, Expression, ast.expr]
"""Indexed field, what it equals, and the condition itself."""


def _split(
    compiler: Compiler, variable: str, of: str, conditions: list[ast.expr], scope: Scope
) -> tuple[Link | None, list[ast.expr]]:
    for place, test in enumerate(conditions):
        if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
            continue
        for one, other in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            field = _field_of(one, variable)
            type_ = compiler.declared[of].field_type(field) if field else None
            mentions = any(isinstance(n, ast.Name) and n.id == variable for n in ast.walk(other))
            if type_ is None or type_.kind != "ref" or mentions:
                continue
            value = compiler.compile(other, replace(scope, depth=scope.depth + 1))
            if value.type.kind == "ref":
                return (field, value, test), conditions[:place] + conditions[place + 1 :]
    return None, conditions


def _field_of(node: ast.expr, variable: str) -> str:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == variable else ""
    return ""


def _way(link: Link | None, of: str) -> tuple[Hop, ...] | None:
    if link is None or link[1].way is None:
        return None
    return (*link[1].way, Hop("rows", of, link[0]))


def _rows(alias: str, of: str, link: Link | None, tests: list[Run]) -> Rows:
    def rows(table: Table, values: Values) -> Iterator[None]:
        found = table.ids(of) if link is None else table.by(of, link[0], link[1].run(table, values))
        for identifier in found:
            values[alias] = identifier
            for test in tests:
                if not test(table, values):
                    break
            else:
                yield

    return rows


def _exists(
    value: Expression, rows: Rows, reads: frozenset[Read], sql: str | None, node: ast.expr
) -> Expression:
    def run(table: Table, values: Values) -> bool:
        return any(True for _ in rows(table, values))

    return Expression(FLAG, run, reads, sql)


def _count(
    value: Expression, rows: Rows, reads: frozenset[Read], sql: str | None, node: ast.expr
) -> Expression:
    def run(table: Table, values: Values) -> int:
        return sum(1 for _ in rows(table, values))

    return Expression(INT, run, reads, sql)


def _sum(
    value: Expression, rows: Rows, reads: frozenset[Read], sql: str | None, node: ast.expr
) -> Expression:
    if value.type not in (INT, MONEY):
        raise LangError(f"sums are over numbers and amounts, got {value.type}", node)
    each = value.run

    def run(table: Table, values: Values) -> int:
        return sum(each(table, values) for _ in rows(table, values))

    return Expression(value.type, run, reads, sql)


def _extreme(pick: Callable[..., Any]) -> Any:
    def fold(
        value: Expression, rows: Rows, reads: frozenset[Read], sql: str | None, node: ast.expr
    ) -> Expression:
        if value.type not in (INT, MONEY, DATE):
            raise LangError(
                f"only numbers, amounts and dates have an order, got {value.type}", node
            )
        each = value.run

        def run(table: Table, values: Values) -> Any:
            return pick((each(table, values) for _ in rows(table, values)), default=None)

        return Expression(replace(value.type, is_optional=True), run, reads, sql)

    return fold


_FOLDS: dict[str, Callable[..., Expression]] = {
    "exists": _exists, "count": _count, "sum": _sum, "min": _extreme(min), "max": _extreme(max),
}  # fmt: skip
_SQL = {
    "exists": "EXISTS(SELECT 1 FROM {rows})",
    "count": "(SELECT COUNT(*) FROM {rows})",
    "sum": "(SELECT COALESCE(SUM({value}), 0) FROM {rows})",
    "min": "(SELECT MIN({value}) FROM {rows})",
    "max": "(SELECT MAX({value}) FROM {rows})",
}
