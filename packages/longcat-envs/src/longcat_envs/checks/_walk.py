"""A second reading of expressions: it walks the syntax, value by value, over plain rows.

It shares no code with the compiler, has no types but those of values, and no way backwards. It is
slow, and therefore plain: tests compare it with the closures.

    kind      a value
    literal   a whole number written out; beside an amount it is in whole units
    int money date days flag word none
    ref       the id of a record of class `of`
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from longcat_envs.lang import Spec, Type
from longcat_envs.lang._raw import RawDomain


class Value(NamedTuple):
    """A value and its kind."""

    kind: str
    value: Any
    of: str = ""


NOTHING = Value("none", None)
Rows = dict[str, dict[str, dict[str, Any]]]


@dataclass(slots=True)
class Here:
    """Where an expression is read: the record it is about, and the names that are bound."""

    about: Value | None
    names: Mapping[str, Value]


def typed(value: Any, type_: Type) -> Value:
    """Return a stored value with its kind."""
    if value is None:
        return NOTHING
    kind = {"text": "word", "enum": "word", "state": "word"}.get(type_.kind, type_.kind)
    return Value(kind, value, type_.of if type_.kind == "ref" else "")


def stored(value: Value, type_: Type) -> Any:
    """Return a value as a field of the type stores it."""
    if value.kind == "literal" and type_.kind == "money":
        return value.value * 100
    return value.value


class Walker:
    """Reads expressions of one domain."""

    def __init__(self, spec: Spec, raw: RawDomain, rows: Rows, today: int) -> None:
        self.spec, self.raw, self.rows, self.today = spec, raw, rows, today
        self._groups: dict[tuple[str, str], dict[Any, list[str]]] = {}
        self.derived: dict[tuple[str, str], ast.expr] = {}
        for of, one in raw.classes.items():
            for _, node in one.values:
                target = node.targets[0]
                if isinstance(target, ast.Name) and target.id in spec.classes[of].derived:
                    self.derived[of, target.id] = node.value

    def read(self, node: ast.expr, here: Here) -> Value:
        """Return the value of an expression."""
        return getattr(self, f"_{type(node).__name__.lower()}")(node, here)

    def is_true(self, node: ast.expr, here: Here) -> bool:
        """Return a condition."""
        return bool(self.read(node, here).value)

    def field(self, record: Value, name: str) -> Value:
        """Return a field or derived value of a record; of none it is none."""
        if record.kind == "none":
            return NOTHING
        if (record.of, name) in self.derived:
            return self.read(self.derived[record.of, name], Here(record, {}))
        one = self.spec.classes[record.of]
        stored_value = self.rows[record.of][record.value][name]
        if name == "state":
            return Value("word", stored_value)
        return typed(stored_value, one.fields[name].type)

    # -- one method for each kind of node ----------------------------------------------------

    def _constant(self, node: ast.Constant, here: Here) -> Value:
        value = node.value
        if isinstance(value, bool):
            return Value("flag", value)
        if value is None:
            return NOTHING
        if isinstance(value, float):
            return Value("money", round(value * 100))
        return Value("literal", value)

    def _name(self, node: ast.Name, here: Here) -> Value:
        name, record = node.id, here.about
        if name in here.names:
            return here.names[name]
        if name == "self" and record is not None:
            return record
        if name == "today":
            return Value("date", self.today)
        if name in ("true", "false"):
            return Value("flag", name == "true")
        if name == "none":
            return NOTHING
        if record is not None:
            one = self.spec.classes[record.of]
            if name in one.fields or name in one.derived or (name == "state" and one.states):
                return self.field(record, name)
        return Value("word", name)

    def _attribute(self, node: ast.Attribute, here: Here) -> Value:
        return self.field(self.read(node.value, here), node.attr)

    def _binop(self, node: ast.BinOp, here: Here) -> Value:
        left, right = self.read(node.left, here), self.read(node.right, here)
        if isinstance(node.op, ast.Mult):
            kind = "money" if "money" in (left.kind, right.kind) else "int"
            return Value(kind, left.value * right.value)
        if isinstance(node.op, ast.Div):
            quotient = abs(left.value) // right.value
            kind = "money" if left.kind == "money" else "int"
            return Value(kind, quotient if left.value >= 0 else -quotient)
        left, right = alike(left, right)
        is_sum = isinstance(node.op, ast.Add)
        value = left.value + right.value if is_sum else left.value - right.value
        kinds = {left.kind, right.kind}
        if "date" in kinds:
            return Value("int" if kinds == {"date"} else "date", value)
        return Value("money" if "money" in kinds else "int", value)

    def _unaryop(self, node: ast.UnaryOp, here: Here) -> Value:
        value = self.read(node.operand, here)
        if isinstance(node.op, ast.Not):
            return Value("flag", not value.value)
        return Value(value.kind, -value.value)

    def _boolop(self, node: ast.BoolOp, here: Here) -> Value:
        decide = all if isinstance(node.op, ast.And) else any
        return Value("flag", decide(self.is_true(part, here) for part in node.values))

    def _compare(self, node: ast.Compare, here: Here) -> Value:
        op, other = node.ops[0], node.comparators[0]
        left = self.read(node.left, here)
        if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.Tuple):
            pairs = [alike(left, self.read(option, here)) for option in other.elts]
            is_in = any(one.value == two.value for one, two in pairs)
            return Value("flag", is_in is isinstance(op, ast.In))
        left, right = alike(left, self.read(other, here))
        one, two = left.value, right.value
        if isinstance(op, ast.Eq):
            return Value("flag", one == two)
        if isinstance(op, ast.NotEq):
            return Value("flag", one != two)
        if isinstance(op, ast.Lt | ast.LtE):
            return Value("flag", one < two or (isinstance(op, ast.LtE) and one == two))
        return Value("flag", one > two or (isinstance(op, ast.GtE) and one == two))

    def _ifexp(self, node: ast.IfExp, here: Here) -> Value:
        left, right = alike(self.read(node.body, here), self.read(node.orelse, here))
        return left if self.is_true(node.test, here) else right

    def _call(self, node: ast.Call, here: Here) -> Value:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if isinstance(node.args[0], ast.GeneratorExp):
            return self._fold(name, node.args[0], here)
        if name == "under":
            return self._under(node, here)
        values = [self.read(argument, here) for argument in node.args]
        if name in ("min", "max"):
            one, two = alike(*values)
            is_first = one.value <= two.value if name == "min" else one.value >= two.value
            return one if is_first else two
        first, last = values[0].value
        if name == "nights":
            return Value("int", last - first)
        return Value("date", first if name == "first" else last)

    def _under(self, node: ast.Call, here: Here) -> Value:
        low, top = self.read(node.args[0], here), self.read(node.args[1], here)
        along = node.args[2].id if isinstance(node.args[2], ast.Name) else ""
        line = list[Any]()
        while low.value is not None and low.value not in line:
            line.append(low.value)
            low = self.field(low, along)
        return Value("flag", top.value in line)

    # -- loops -------------------------------------------------------------------------------

    def fitting(self, node: ast.ListComp | ast.GeneratorExp, here: Here) -> Iterator[Here]:
        """Yield the place of each record of a loop for which its conditions hold."""
        loop = node.generators[0]
        assert isinstance(loop.target, ast.Name)
        assert isinstance(loop.iter, ast.Name)
        variable, of = loop.target.id, loop.iter.id
        tests = [part for test in loop.ifs for part in _parts(test)]
        fixed, rest = self._fixed(tests, variable, of, here)
        for identifier in self._group(of, *fixed[0]) if fixed else list(self.rows[of]):
            row = self.rows[of][identifier]
            if any(row[name] != value for name, value in fixed):
                continue
            inner = Here(here.about, {**here.names, variable: Value("ref", identifier, of)})
            if all(self.is_true(test, inner) for test in rest):
                yield inner

    def put(self, of: str, identifier: str, row: dict[str, Any]) -> None:
        """Put a row in place of what was there."""
        self.rows[of][identifier] = row
        self._groups = {key: groups for key, groups in self._groups.items() if key[0] != of}

    def _group(self, of: str, name: str, value: Any) -> list[str]:
        """Return the records of a class by the value of a field; grouped once between writes."""
        if (of, name) not in self._groups:
            groups = self._groups[of, name] = {}
            for identifier, row in self.rows[of].items():
                groups.setdefault(row[name], []).append(identifier)
        return self._groups[of, name].get(value, [])

    def _fixed(
        self, tests: list[ast.expr], variable: str, of: str, here: Here
    ) -> tuple[list[tuple[str, Any]], list[ast.expr]]:
        """Read `x.field == value` once for the whole loop where the value does not speak of x."""
        fixed: list[tuple[str, Any]] = []
        rest: list[ast.expr] = []
        for test in tests:
            is_equal = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq)
            side = test.left if is_equal and isinstance(test, ast.Compare) else None
            if (
                isinstance(side, ast.Attribute) and isinstance(side.value, ast.Name)
                and side.value.id == variable and isinstance(test, ast.Compare)
                and (side.attr in self.spec.classes[of].fields or side.attr == "state")
                and not any(isinstance(n, ast.Name) and n.id == variable
                            for n in ast.walk(test.comparators[0]))
            ):  # fmt: skip
                value = self.read(test.comparators[0], here)
                type_ = self.spec.classes[of].fields.get(side.attr)
                fixed.append((side.attr, stored(value, type_.type) if type_ else value.value))
            else:
                rest.append(test)
        return fixed, rest

    def _fold(self, name: str, node: ast.GeneratorExp, here: Here) -> Value:
        places = list(self.fitting(node, here))
        if name == "exists":
            return Value("flag", bool(places))
        if name == "count":
            return Value("int", len(places))
        values = [self.read(node.elt, place) for place in places]
        if not values:
            return Value("literal", 0) if name == "sum" else NOTHING
        if name == "sum":
            return Value(values[0].kind, sum(value.value for value in values))
        pick = min if name == "min" else max
        return Value(values[0].kind, pick(value.value for value in values))


def alike(left: Value, right: Value) -> tuple[Value, Value]:
    """Put a written number into the unit of what stands beside it."""
    if left.kind == "money" and right.kind == "literal":
        right = Value("money", right.value * 100)
    elif right.kind == "money" and left.kind == "literal":
        left = Value("money", left.value * 100)
    return left, right


def _parts(node: ast.expr) -> list[ast.expr]:
    is_and = isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)
    return node.values if is_and and isinstance(node, ast.BoolOp) else [node]
