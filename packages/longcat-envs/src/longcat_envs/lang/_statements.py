"""Small readings of statements: names, words, a transition as an action, the shape of an action."""

from __future__ import annotations

import ast
import re

from ._actions import Refused
from ._errors import LangError
from ._spec import Guard, Run, Table, Values
from ._types import Type

RESERVED = frozenset({
    "id", "self", "today", "true", "false", "none", "new", "state", "page", "value", "count",
    "sum", "min", "max", "exists", "under", "first", "last", "nights",
})  # fmt: skip


def called(node: ast.Call) -> str:
    """Return the name of what is called; empty if it is no name."""
    return node.func.id if isinstance(node.func, ast.Name) else ""


def target(node: ast.Assign) -> str:
    """Return the name that is assigned; empty if it is no name."""
    target = node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


def words(call: ast.Call, nodes: list[ast.expr]) -> tuple[str, ...]:
    """Read the names in the parentheses of a statement, each once."""
    words: list[str] = []
    for node in nodes:
        if not isinstance(node, ast.Name) or call.keywords:
            raise LangError(f"{called(call)}(...) takes names", node)
        if node.id in words or node.id in RESERVED:
            raise LangError(f"{node.id!r} is there twice or reserved", node)
        words.append(node.id)
    return tuple(words)


def as_function(name: str, node: ast.Assign) -> ast.FunctionDef:
    """Write a transition `x = a > b` as the action it is."""
    empty = ast.arguments([], [], None, [], [], None, [])
    body = ast.copy_location(ast.Expr(node.value), node)
    function = ast.FunctionDef(name, empty, [body], [], None, None)
    return ast.copy_location(function, node)


def lives(of: str, ends: frozenset[str]) -> Run:
    """Return the condition that a record has not ended."""
    return lambda table, values: table.row(of, values["self"])["state"] not in ends


def check(guard: Guard) -> Run:
    """Return what refuses by a guard."""

    def run(table: Table, values: Values) -> None:
        if not guard.run(table, values):
            raise Refused(guard)

    return run


def shape(parameters: tuple[tuple[str, Type], ...], body: list[ast.stmt]) -> str:
    """Write an action with its names and reasons taken out."""
    types = ",".join(t.kind for _, t in parameters)
    module = ast.Module([*body], [])
    text = ast.dump(module)
    return types + ";" + _NAMES.sub("_", text)


_NAMES = re.compile(r"(?<=id=')\w+|(?<=attr=')\w+|(?<=arg=')\w+|msg=Constant\([^)]*\)")
