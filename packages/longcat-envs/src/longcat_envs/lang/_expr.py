"""Expressions: from syntax to types, closures, reads and SQL, in one pass over an allow-list.

Every expression is total: it has a value for every world, and no loop but those over records.
Equality knows `none`; order and arithmetic are refused for what may be `none`. SQL and closure are
two derivations of one thing: where both exist they agree on every world.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from ._combine import binary, join, reads_of, sql_of
from ._errors import LangError, unknown
from ._functions import call
from ._spec import Expression, Field, Hop, Read, Table, Values
from ._types import DATE, FLAG, INT, MONEY, NONE, Type

MAX_DEPTH = 40
"""Operators inside one another."""


@dataclass(slots=True)
class Declared:
    """A class as far as it must be known to type what refers to it."""

    name: str
    fields: dict[str, Field]
    derived: dict[str, ast.expr]
    states: tuple[str, ...]

    def field_type(self, name: str) -> Type | None:
        """The type of a stored field, `None` if there is no such field."""
        if name == "state" and self.states:
            return Type("state", self.name, self.states)
        return self.fields[name].type if name in self.fields else None


@dataclass(frozen=True, slots=True)
class Scope:
    """What a name may mean."""

    here: Expression | None
    """The record that the expression is about."""
    variables: Mapping[str, Expression]
    within: tuple[str, ...] = ()
    """Derived values being read, outermost first."""
    depth: int = 0

    def bind(self, name: str, value: Expression) -> Scope:
        """Return this scope with one more variable."""
        return replace(self, variables={**self.variables, name: value})


def constant(type_: Type, value: Any) -> Expression:
    """Return an expression that has always the same value."""
    if value is None:
        sql = "NULL"
    elif isinstance(value, str):
        sql = "'" + value.replace("'", "''") + "'"
    else:
        sql = str(int(value))
    return Expression(type_, lambda table, values: value, sql=sql, fixed=(value,))


class Compiler:
    """Compiles the expressions of one domain."""

    def __init__(self, declared: Mapping[str, Declared]) -> None:
        self.declared = declared
        self._numbers = count()
        self.options = {
            option
            for one in declared.values()
            for option in (*one.states, *(o for f in one.fields.values() for o in f.type.options))
        }

    def fresh(self, name: str) -> str:
        """Return a name that nothing else has."""
        return f"{name}_{next(self._numbers)}"

    def about(self, of: str) -> Expression:
        """Return the record of a class that an expression is about."""
        return Expression(Type("ref", of), _self, sql="self.id", way=())

    def compile(self, node: ast.expr, scope: Scope, expected: Type | None = None) -> Expression:
        """Compile one expression, of a type if one is expected.

        Raises:
            LangError: It is not in the language, or not of the type.
        """
        if scope.depth > MAX_DEPTH:
            raise LangError(f"expressions nest at most {MAX_DEPTH} deep", node)
        compiled = self._node(node, replace(scope, depth=scope.depth + 1))
        if expected is not None:
            compiled = self.coerce(compiled, expected, node)
        elif compiled.type.kind == "symbol":
            raise LangError(f"{compiled.symbol!r} means nothing here", node)
        return compiled

    def coerce(self, value: Expression, wanted: Type, node: ast.expr) -> Expression:
        """Make a bare word an option and a number an amount where that is wanted."""
        if value.type.kind == "symbol" and wanted.kind in ("enum", "state"):
            if value.symbol not in wanted.options:
                what = f"a state of {wanted.of}" if wanted.of else "the option"
                raise unknown(what, value.symbol, wanted.options, node)
            return constant(wanted.plain, value.symbol)
        if wanted.kind == "money" and value.type.kind == "int" and value.symbol:
            return constant(MONEY, int(value.symbol) * 100)
        same = value.type.plain == wanted.plain or (value.type == NONE and wanted.is_optional)
        if not same or (value.type.is_optional and not wanted.is_optional):
            got = repr(value.symbol) if value.type.kind == "symbol" else str(value.type)
            raise LangError(f"expected {wanted}, got {got}", node)
        return value

    def _node(self, node: ast.expr, scope: Scope) -> Expression:
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._name(node, scope)
        if isinstance(node, ast.Attribute):
            return self.access(self.compile(node.value, scope), node.attr, node, scope)
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, scope)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node, scope)
        if isinstance(node, ast.BoolOp):
            return self._bool(node, scope)
        if isinstance(node, ast.Compare):
            return self._compare(node, scope)
        if isinstance(node, ast.IfExp):
            return self._choice(node, scope)
        if isinstance(node, ast.Call):
            return call(self, node, scope)
        raise LangError(f"{type(node).__name__} is not part of the language", node)

    # -- leaves ----------------------------------------------------------------------------

    def _constant(self, node: ast.Constant) -> Expression:
        value = node.value
        if isinstance(value, bool):
            return constant(FLAG, value)
        if value is None:
            return constant(NONE, None)
        if isinstance(value, int) and abs(value) <= 10**9:
            return replace(constant(INT, value), symbol=str(value))
        if isinstance(value, float) and 0 <= value <= 10**7 and round(value * 100, 6).is_integer():
            return constant(MONEY, round(value * 100))
        raise LangError("a constant is a number, true, false, none or a word that is an option",
                        node)  # fmt: skip

    def _name(self, node: ast.Name, scope: Scope) -> Expression:
        name = node.id
        if name in scope.variables:
            return scope.variables[name]
        if name == "self" and scope.here is not None:
            return scope.here
        if name == "today":
            return Expression(DATE, lambda table, values: table.today,
                              frozenset({Read("", "today", ())}))  # fmt: skip
        if name in ("true", "false"):
            return constant(FLAG, name == "true")
        if name == "none":
            return constant(NONE, None)
        one = self.declared[scope.here.type.of] if scope.here is not None else None
        if one and scope.here and (one.field_type(name) or name in one.derived):
            return self.access(scope.here, name, node, scope)
        if name in self.options:
            return Expression(Type("symbol"), lambda table, values: name, symbol=name)
        known = [*scope.variables, *self.options, "today", "self"]
        if one:
            known += [*one.fields, *one.derived]
        raise unknown("a name", name, known, node)

    def access(self, base: Expression, name: str, node: ast.expr, scope: Scope) -> Expression:
        """Return a field, stored or derived, of the record that `base` refers to."""
        if base.type.kind != "ref":
            raise LangError(f"only records have fields, this is {base.type}", node)
        one = self.declared[base.type.of]
        if name in one.derived:
            return self._derived(base, one, name, node, scope)
        type_ = one.field_type(name)
        if type_ is None:
            raise unknown(f"a field of {one.name}", name, [*one.fields, *one.derived], node)
        of, follow = one.name, base.run
        if base.type.is_optional:

            def run(table: Table, values: Values) -> Any:
                identifier = follow(table, values)
                return None if identifier is None else table.row(of, identifier)[name]

        elif follow is _self:

            def run(table: Table, values: Values) -> Any:
                return table.row(of, values["self"])[name]

        else:

            def run(table: Table, values: Values) -> Any:
                return table.row(of, follow(table, values))[name]

        way = None if base.way is None else (*base.way, Hop("ref", of, name))
        return Expression(
            replace(type_, is_optional=type_.is_optional or base.type.is_optional),
            run,
            base.reads | {Read(of, name, base.way)},
            self._column(base, of, f"{name}_{{}}" if type_.kind == "days" else name),
            way if type_.kind == "ref" else None,
        )

    def _column(self, base: Expression, of: str, column: str) -> str | None:
        if base.sql is None:
            return None
        if base.sql.endswith(".id") and " " not in base.sql:
            return f'{base.sql[:-3]}."{column}"'
        alias = self.fresh("t")
        return f'(SELECT {alias}."{column}" FROM "{of}" {alias} WHERE {alias}.id = {base.sql})'

    def _derived(
        self, base: Expression, one: Declared, name: str, node: ast.expr, scope: Scope
    ) -> Expression:
        key = f"{one.name}.{name}"
        if key in scope.within:
            raise LangError(f"{key} is derived from itself", node)
        if base.type.is_optional:
            raise LangError("a derived value needs a record that is not optional", node)
        simple = base.sql is not None and base.sql.endswith(".id") and " " not in base.sql
        alias = base.sql[:-3] if simple and base.sql else self.fresh("t")
        here = replace(base, sql=None if base.sql is None else f"{alias}.id")
        inner = Scope(here, {}, (*scope.within, key), scope.depth)
        value = self.compile(one.derived[name], inner)
        sql = value.sql
        if not simple and sql is not None and base.sql is not None:
            sql = f'(SELECT {sql} FROM "{one.name}" {alias} WHERE {alias}.id = {base.sql})'
        return replace(value, reads=value.reads | base.reads, sql=sql, symbol="")

    # -- operators -------------------------------------------------------------------------

    def _arithmetic(self, node: ast.BinOp, scope: Scope) -> Expression:
        left, right = self.compile(node.left, scope), self.compile(node.right, scope)
        symbol = _SYMBOLS.get(type(node.op))
        if symbol is None:
            raise LangError(f"the operator {type(node.op).__name__} is not part of the language",
                            node)  # fmt: skip
        if symbol in "+-":
            if left.type == MONEY and right.symbol:
                right = self.coerce(right, MONEY, node.right)
            elif right.type == MONEY and left.symbol:
                left = self.coerce(left, MONEY, node.left)
        kinds = (left.type.kind, symbol, right.type.kind)
        type_ = _ARITHMETIC.get(kinds)
        if type_ is None or left.type.is_optional or right.type.is_optional:
            raise LangError(f"{left.type} {symbol} {right.type} has no meaning", node)
        if symbol == "/" and (not right.symbol or int(right.symbol) <= 0):
            raise LangError("a divisor is a whole number above 0, written out", node.right)
        if symbol == "*" and not (left.symbol or right.symbol or "int" in kinds):
            raise LangError(f"{left.type} * {right.type} has no meaning", node)
        return binary(type_, _OPERATORS[symbol], left, right, symbol)

    def _unary(self, node: ast.UnaryOp, scope: Scope) -> Expression:
        if isinstance(node.op, ast.Not):
            value = self.compile(node.operand, scope, FLAG)
            run = value.run
            return Expression(FLAG, lambda table, values: not run(table, values), value.reads,
                              None if value.sql is None else f"(NOT {value.sql})")  # fmt: skip
        if isinstance(node.op, ast.USub):
            value = self.compile(node.operand, scope)
            if value.type not in (INT, MONEY):
                raise LangError(f"- {value.type} has no meaning", node)
            run = value.run
            return Expression(
                value.type, lambda table, values: -run(table, values), value.reads,
                None if value.sql is None else f"(- {value.sql})",
                symbol=f"-{value.symbol}" if value.symbol else "",
            )  # fmt: skip
        raise LangError(f"{type(node.op).__name__} is not part of the language", node)

    def _bool(self, node: ast.BoolOp, scope: Scope) -> Expression:
        parts = [self.compile(part, scope, FLAG) for part in node.values]
        runs = [part.run for part in parts]
        is_and = isinstance(node.op, ast.And)

        def run(table: Table, values: Values) -> bool:
            for one in runs:
                if bool(one(table, values)) is not is_and:
                    return not is_and
            return is_and

        return Expression(FLAG, run, reads_of(*parts), join(" AND " if is_and else " OR ", parts))

    def _compare(self, node: ast.Compare, scope: Scope) -> Expression:
        if len(node.ops) != 1:
            raise LangError("a comparison has two sides", node)
        op, right_node = node.ops[0], node.comparators[0]
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(node, right_node, scope, isinstance(op, ast.In))
        left, right = self.pair(node.left, right_node, scope, node)
        if isinstance(op, ast.Eq | ast.NotEq):
            is_same = isinstance(op, ast.Eq)
            name = "IS" if is_same else "IS NOT"
            if left.type.kind == "days":
                raise LangError("intervals are compared by first() and last()", node)
            return binary(FLAG, operator.eq if is_same else operator.ne, left, right, name)
        found = _ORDER.get(type(op))
        if found is None:
            raise LangError(f"the comparison {type(op).__name__} is not part of the language", node)
        ordered = left.type.kind in ("int", "money", "date")
        if not ordered or left.type.is_optional or right.type.is_optional:
            raise LangError(f"{left.type} and {right.type} have no order", node)
        return binary(FLAG, found[1], left, right, found[0])

    def pair(
        self, left_node: ast.expr, right_node: ast.expr, scope: Scope, node: ast.expr
    ) -> tuple[Expression, Expression]:
        """Compile two sides that must be of one type; a bare word takes the type of the other."""
        left, right = self._node(left_node, scope), self._node(right_node, scope)
        if left.type.kind == "symbol" or (left.symbol and right.type.kind == "money"):
            left = self.coerce(left, right.type, left_node)
        elif right.type.kind == "symbol" or (right.symbol and left.type.kind == "money"):
            right = self.coerce(right, left.type, right_node)
        is_none = (left.type == NONE and right.type.is_optional) or (
            right.type == NONE and left.type.is_optional
        )
        if left.type.plain != right.type.plain and not is_none:
            raise LangError(f"{left.type} and {right.type} are never the same", node)
        return left, right

    def _membership(
        self, node: ast.Compare, options: ast.expr, scope: Scope, is_in: bool
    ) -> Expression:
        left = self.compile(node.left, scope)
        if not isinstance(options, ast.Tuple) or not options.elts:
            raise LangError("after `in` come options in parentheses: (a, b)", options)
        allowed = [self.compile(option, scope, left.type) for option in options.elts]
        runs, follow = [one.run for one in allowed], left.run

        def run(table: Table, values: Values) -> bool:
            value = follow(table, values)
            return any(value == one(table, values) for one in runs) is is_in

        tests = [sql_of(f"{left.sql} IS {one.sql}", left, one) for one in allowed]
        joined = None if None in tests else " OR ".join(str(test) for test in tests)
        sql = None if joined is None else f"({joined})" if is_in else f"(NOT ({joined}))"
        return Expression(FLAG, run, reads_of(left, *allowed), sql)

    def _choice(self, node: ast.IfExp, scope: Scope) -> Expression:
        test = self.compile(node.test, scope, FLAG)
        left, right = self.pair(node.body, node.orelse, scope, node)
        decide, yes, no = test.run, left.run, right.run

        def run(table: Table, values: Values) -> Any:
            return yes(table, values) if decide(table, values) else no(table, values)

        sql = f"(CASE WHEN {test.sql} THEN {left.sql} ELSE {right.sql} END)"
        optional = left.type.is_optional or right.type.is_optional
        return Expression(replace(left.type, is_optional=optional), run,
                          reads_of(test, left, right), sql_of(sql, test, left, right))  # fmt: skip


def _self(table: Table, values: Values) -> Any:
    """The record that an expression is about."""
    return values["self"]


def truncate(left: int, right: int) -> int:
    """Divide as SQL does: towards zero."""
    return left // right if left >= 0 else -(-left // right)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": truncate,
}  # fmt: skip
_ARITHMETIC = {
    ("int", "+", "int"): INT, ("int", "-", "int"): INT, ("int", "*", "int"): INT,
    ("int", "/", "int"): INT, ("money", "+", "money"): MONEY, ("money", "-", "money"): MONEY,
    ("money", "*", "int"): MONEY, ("int", "*", "money"): MONEY, ("money", "/", "int"): MONEY,
    ("date", "+", "int"): DATE, ("date", "-", "int"): DATE, ("date", "-", "date"): INT,
}  # fmt: skip
_SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/",
}  # fmt: skip
_ORDER: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt), ast.GtE: (">=", operator.ge),
}  # fmt: skip
