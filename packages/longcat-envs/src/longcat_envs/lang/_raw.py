"""From the text of a domain file to its statements, by allow-list; parts are written out here.

A part is a call in the body of a class, such as `ledger(...)`. Its text, in this same language,
takes the place of the call; an error in it points at the call.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ._errors import LangError, unknown

MAX_CHARACTERS = 100_000

PartText = Callable[[str, list[str], dict[str, str]], str]
"""Class name, positional and named arguments (as text) to the part's text."""


@dataclass(slots=True)
class RawClass:
    """The statements of one class, sorted by kind."""

    name: str
    node: ast.AST
    marks: set[str]
    """`person`, `made_by_tools`."""
    is_announced: bool = False
    """A part spoke of it before its own place in the file was reached."""
    fields: list[ast.AnnAssign] = field(default_factory=list[ast.AnnAssign])
    values: list[tuple[str, ast.Assign]] = field(default_factory=list[tuple[str, ast.Assign]])
    """Transitions and derived values, with the part they come from."""
    actions: list[tuple[str, ast.FunctionDef]] = field(
        default_factory=list[tuple[str, ast.FunctionDef]]
    )
    calls: list[ast.Call] = field(default_factory=list[ast.Call])
    """`states`, `owner`, `fixed`, `inside` and `never`."""
    parts: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class RawDomain:
    """The statements of one file."""

    classes: dict[str, RawClass]
    queries: list[tuple[str, str, ast.FunctionDef]]
    """Part, class (empty for a reader of its own), function."""


STATEMENTS = ("states", "owner", "fixed", "inside", "never")
MARKS = ("person", "made_by_tools")


def read_raw(text: str, parts: Mapping[str, PartText]) -> RawDomain:
    """Read the statements of a file.

    Raises:
        LangError: The text is not in the language.
    """
    domain = RawDomain({}, [])
    _read_module(_parse(text), domain, parts, "own")
    if not domain.classes:
        raise LangError("a domain has one class at least")
    return domain


def _parse(text: str) -> ast.Module:
    if len(text) > MAX_CHARACTERS:
        raise LangError(f"a file has at most {MAX_CHARACTERS} characters, this has {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as `3days`: Python reads it, and warns
            return ast.parse(text)
    except SyntaxError as error:
        node = ast.Pass(lineno=error.lineno or 1, col_offset=max(0, (error.offset or 1) - 1))
        raise LangError(f"syntax: {error.msg}", node) from None
    except (Warning, ValueError, RecursionError, MemoryError) as error:
        raise LangError(f"syntax: {error or 'nested too deeply'}") from None


def _read_module(
    module: ast.Module, domain: RawDomain, parts: Mapping[str, PartText], part: str
) -> None:
    for statement in module.body:
        if isinstance(statement, ast.ClassDef):
            _read_class(statement, domain, parts, part)
        elif isinstance(statement, ast.FunctionDef):
            domain.queries.append((part, "", statement))
        elif not _is_docstring(statement):
            raise LangError(f"a file holds classes and readers, not {_kind(statement)}", statement)


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _kind(node: ast.AST) -> str:
    return type(node).__name__


def _read_class(
    node: ast.ClassDef, domain: RawDomain, parts: Mapping[str, PartText], part: str
) -> None:
    if node.keywords or node.decorator_list:
        raise LangError("a class has no decorators and no keywords", node)
    marks = {base.id for base in node.bases if isinstance(base, ast.Name)}
    for base in node.bases:
        if not isinstance(base, ast.Name) or base.id not in MARKS:
            raise unknown("in parentheses after a class", ast.unparse(base)[:40], MARKS, base)
    known = domain.classes.get(node.name)
    if known is not None and part == "own" and not known.is_announced:
        raise LangError(f"the class {node.name!r} is there twice", node)
    if known is None and not (node.name.isidentifier() and node.name.islower()):
        raise LangError(f"a class has a name in small letters, got {node.name!r}", node)
    raw = known or RawClass(node.name, node, marks, is_announced=part != "own")
    if known is None:
        domain.classes[node.name] = raw
    elif part == "own":
        raw.marks, raw.node, raw.is_announced = marks, node, False
    for statement in node.body:
        _read_statement(statement, raw, domain, parts, part)


def _read_statement(
    node: ast.stmt, raw: RawClass, domain: RawDomain, parts: Mapping[str, PartText], part: str
) -> None:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        raw.fields.append(node)
    elif isinstance(node, ast.Assign) and _single_name(node):
        raw.values.append(("lifecycle" if part == "own" else part, node))
    elif isinstance(node, ast.FunctionDef):
        if len(node.body) == 1 and isinstance(node.body[0], ast.Return):
            domain.queries.append((part, raw.name, node))
        else:
            raw.actions.append((part, node))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        _read_call(node.value, raw, domain, parts)
    elif not _is_docstring(node) and not isinstance(node, ast.Pass):
        raise LangError(
            f"a class holds fields, values, transitions, actions and parts, not {_kind(node)}", node
        )


def _single_name(node: ast.Assign) -> bool:
    return len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)


def _read_call(
    call: ast.Call, raw: RawClass, domain: RawDomain, parts: Mapping[str, PartText]
) -> None:
    name = call.func.id if isinstance(call.func, ast.Name) else ast.unparse(call.func)[:40]
    if name in STATEMENTS:
        raw.calls.append(call)
        return
    if name not in parts:
        raise unknown("a part or statement", name, [*parts, *STATEMENTS], call)
    if name in raw.parts and name != "approval":
        raise LangError(f"{name} is there twice in {raw.name}", call)
    named = {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}
    if len(named) != len(call.keywords):
        raise LangError("a part takes no ** arguments", call)
    try:
        text = parts[name](raw.name, [ast.unparse(argument) for argument in call.args], named)
        module = _parse(text)
    except LangError as error:
        raise LangError(f"{name}: {error.rule}", call) from None
    except ValueError as error:
        raise LangError(f"{name}: {error}", call) from None
    for node in ast.walk(module):
        if hasattr(node, "lineno"):
            ast.copy_location(node, call)
    raw.parts.append(name)
    _read_module(module, domain, parts, name)
