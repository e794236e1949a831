"""Actions: statements become closures that guard, change and make records.

assert condition, "reason"      refuses
a | b > c                       a transition of the record's state
field = value                   of this record, or of one it refers to: room.rate = ...
new(class, field=value, ...)    a new record
reference.action(...)           another action, as a part of this one
if condition: ... else: ...
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ._errors import LangError, unknown
from ._expr import Compiler, Scope
from ._spec import Action, Contract, Expression, Guard, Read, Run, Table, Values
from ._types import FLAG, Type

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CALLS = 8
"""Actions inside one another."""


class Refused(Exception):
    """An action that the world refuses, and the guard that did."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard.reason)
        self.guard = guard


@dataclass(slots=True)
class Draft:
    """What has been collected of one action so far."""

    of: str
    guards: list[Guard] = field(default_factory=list[Guard])
    reads: set[str] = field(default_factory=set[str])
    writes: set[str] = field(default_factory=set[str])
    makes: set[str] = field(default_factory=set[str])
    sources: tuple[str, ...] = ()
    target: str = ""


class ActionCompiler:
    """Compiles the actions of one domain; an action called by another is compiled into it."""

    def __init__(
        self,
        compiler: Compiler,
        find: Callable[[str, str], ast.FunctionDef | None],
        names: Callable[[str], list[str]],
        parameter_type: Callable[[ast.expr], Type],
    ) -> None:
        self.compiler, self._find, self._names = compiler, find, names
        self._parameter_type = parameter_type

    def parameters(self, node: ast.FunctionDef) -> tuple[tuple[str, Type], ...]:
        """Return the parameters of an action or reader with their types."""
        arguments = node.args
        odd = arguments.posonlyargs or arguments.kwonlyargs or arguments.defaults
        if odd or arguments.vararg or arguments.kwarg or node.decorator_list or node.returns:
            raise LangError("parameters are name: type, without defaults and stars", node)
        found: list[tuple[str, Type]] = []
        for argument in arguments.args:
            if argument.annotation is None:
                raise LangError(f"the parameter {argument.arg!r} has a type", argument)
            if argument.arg in dict(found):
                raise LangError(f"the parameter {argument.arg!r} is there twice", argument)
            found.append((argument.arg, self._parameter_type(argument.annotation)))
        return tuple(found)

    def body(
        self, statements: list[ast.stmt], draft: Draft, scope: Scope, calls: tuple[str, ...] = ()
    ) -> tuple[Run, ...]:
        """Compile statements; what they touch is added to the draft."""
        runs = [self._statement(statement, draft, scope, calls) for statement in statements]
        return tuple(run for run in runs if run is not None)

    def _statement(
        self, node: ast.stmt, draft: Draft, scope: Scope, calls: tuple[str, ...]
    ) -> Run | None:
        if isinstance(node, ast.Assert):
            return self._assert(node, draft, scope)
        if isinstance(node, ast.If):
            return self._if(node, draft, scope, calls)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            return self._assign(node, draft, scope)
        if isinstance(node, ast.Expr):
            return self._expression(node.value, draft, scope, calls)
        if isinstance(node, ast.Pass):
            return None
        raise LangError(f"{type(node).__name__} is not a statement of the language", node)

    def _expression(
        self, node: ast.expr, draft: Draft, scope: Scope, calls: tuple[str, ...]
    ) -> Run | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return None
        if isinstance(node, ast.Compare):
            return self.transition(node, draft, scope)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "new":
                return self._new(node, draft, scope)
            if isinstance(node.func, ast.Attribute):
                return self._call(node, node.func, draft, scope, calls)
            if isinstance(node.func, ast.Name):
                here = ast.copy_location(ast.Name("self", ast.Load()), node)
                func = ast.copy_location(ast.Attribute(here, node.func.id, ast.Load()), node)
                return self._call(node, func, draft, scope, calls)
        raise LangError("a statement is a transition, an assignment, an action or new(...)", node)

    def _assert(self, node: ast.Assert, draft: Draft, scope: Scope) -> Run:
        reason = node.msg.value if isinstance(node.msg, ast.Constant) else None
        if not isinstance(reason, str) or not reason.strip():
            raise LangError('a guard has a reason: assert condition, "because"', node)
        condition = self.compiler.compile(node.test, scope, FLAG)
        return self._guard(condition, reason, draft)

    def _guard(
        self, condition: Expression, reason: str, draft: Draft, *, is_state: bool = False
    ) -> Run:
        reads = names(condition.reads)
        guard = Guard(condition.run, reason, reads, is_state)
        draft.guards.append(guard)
        draft.reads |= reads
        holds = condition.run

        def run(table: Table, values: Values) -> None:
            if not holds(table, values):
                raise Refused(guard)

        return run

    def _if(self, node: ast.If, draft: Draft, scope: Scope, calls: tuple[str, ...]) -> Run:
        test = self.compiler.compile(node.test, scope, FLAG)
        draft.reads |= names(test.reads)
        yes = self.body(node.body, draft, scope, calls)
        no = self.body(node.orelse, draft, scope, calls)
        decide = test.run

        def run(table: Table, values: Values) -> None:
            for one in yes if decide(table, values) else no:
                one(table, values)

        return run

    def transition(self, node: ast.Compare, draft: Draft, scope: Scope) -> Run:
        """Compile `a | b > c`."""
        assert scope.here is not None
        of = scope.here.type.of
        states = self.compiler.declared[of].states
        sources, target = read_transition(node, of, states)
        if draft.target and draft.of == of:
            raise LangError("an action has one transition", node)
        if draft.of == of:
            draft.sources, draft.target = sources, target
        state = self.compiler.access(scope.here, "state", node, scope)
        read = state.run
        words = f"the {of.replace('_', ' ')} must be {' or '.join(sources)}"
        condition = Expression(FLAG, lambda t, v: read(t, v) in sources, state.reads)
        check = self._guard(condition, words, draft, is_state=True)
        draft.writes.add(f"{of}.state")
        here = scope.here.run

        def run(table: Table, values: Values) -> None:
            check(table, values)
            table.write(of, here(table, values), "state", target)

        return run

    def _assign(self, node: ast.Assign, draft: Draft, scope: Scope) -> Run:
        target = node.targets[0]
        base, name = scope.here, ""
        if isinstance(target, ast.Name):
            name = target.id
        elif isinstance(target, ast.Attribute):
            base, name = self.compiler.compile(target.value, scope), target.attr
        if base is None or not name or base.type.kind != "ref" or base.type.is_optional:
            raise LangError("what is assigned is a field of a record", target)
        one = self.compiler.declared[base.type.of]
        if name not in one.fields:
            raise unknown(f"a stored field of {one.name}", name, one.fields, target)
        value = self.compiler.compile(node.value, scope, one.fields[name].type)
        draft.reads |= names(value.reads | base.reads)
        draft.writes.add(f"{one.name}.{name}")
        of, where, what = one.name, base.run, value.run

        def run(table: Table, values: Values) -> None:
            result = what(table, values)
            table.write(of, where(table, values), name, result)

        return run

    def _new(self, node: ast.Call, draft: Draft, scope: Scope) -> Run:
        first = node.args[0] if len(node.args) == 1 else None
        if not isinstance(first, ast.Name):
            raise LangError("new(class, field=value, ...)", node)
        of = first.id
        if of not in self.compiler.declared:
            raise unknown("a class", of, self.compiler.declared, first)
        one = self.compiler.declared[of]
        makers: dict[str, Run] = {}
        for word in node.keywords:
            if word.arg is None or word.arg not in one.fields or word.arg in makers:
                raise unknown(f"a field of {of}", str(word.arg), one.fields, word.value)
            value = self.compiler.compile(word.value, scope, one.fields[word.arg].type)
            draft.reads |= names(value.reads)
            makers[word.arg] = value.run
        make = self.maker(of, makers, node)
        draft.makes.add(of)
        draft.writes |= {f"{of}.{name}" for name in (*one.fields, *(["state"] * bool(one.states)))}

        def run(table: Table, values: Values) -> None:
            make(table, values)

        return run

    def maker(
        self, of: str, makers: dict[str, Run], node: ast.AST
    ) -> Callable[[Table, Values], str]:
        """Return what makes a record of a class from the given fields and the defaults."""
        one = self.compiler.declared[of]
        defaults: dict[str, Expression] = {}
        for name, declared in one.fields.items():
            if name in makers:
                continue
            if declared.default is None:
                raise LangError(f"a new {of} needs {name}", node)
            defaults[name] = declared.default
        first = one.states[0] if one.states else ""
        order = list(one.fields)

        def make(table: Table, values: Values) -> str:
            row = {name: run(table, values) for name, run in makers.items()}
            inner = dict(row)
            for name, default in defaults.items():
                row[name] = default.run(table, inner)
            ordered = {name: row[name] for name in order}
            if first:
                ordered["state"] = first
            return table.insert(of, ordered)

        return make

    def _call(
        self, node: ast.Call, func: ast.Attribute, draft: Draft, scope: Scope,
        calls: tuple[str, ...],
    ) -> Run:  # fmt: skip
        base = self.compiler.compile(func.value, scope)
        if base.type.kind != "ref" or base.type.is_optional:
            raise LangError(f"only records act, this is {base.type}", func)
        of = base.type.of
        action = self._find(of, func.attr)
        if action is None:
            raise unknown(f"an action of {of}", func.attr, self._names(of), func)
        key = f"{of}.{func.attr}"
        if key in calls or len(calls) >= MAX_CALLS:
            raise LangError(f"{key} leads back to itself", node)
        parameters = self.parameters(action)
        if node.keywords or len(node.args) != len(parameters):
            wanted = ", ".join(name for name, _ in parameters)
            raise LangError(f"{func.attr} takes ({wanted})", node)
        variables: dict[str, Expression] = {}
        bindings: list[tuple[str, Run]] = []
        for (name, type_), argument in zip(parameters, node.args, strict=True):
            value = self.compiler.compile(argument, scope, type_)
            draft.reads |= names(value.reads)
            alias = self.compiler.fresh(name)
            bindings.append((alias, value.run))
            variables[name] = variable(alias, type_)
        me = self.compiler.fresh("self")
        bindings.append((me, base.run))
        here = replace(variable(me, base.type), way=None)
        inner = Draft(of, draft.guards, draft.reads, draft.writes, draft.makes)
        runs = self.body(action.body, inner, Scope(here, variables, (), scope.depth), (*calls, key))
        draft.reads |= names(base.reads)

        def run(table: Table, values: Values) -> None:
            values.update({alias: get(table, values) for alias, get in bindings})
            for one in runs:
                one(table, values)

        return run


def names(reads: frozenset[Read]) -> frozenset[str]:
    """Return reads as `class.field` names."""
    return frozenset(f"{read.of}.{read.name}" for read in reads if read.of and read.name)


def variable(alias: str, type_: Type) -> Expression:
    """Return an expression for a parameter."""
    return Expression(type_, lambda table, values: values[alias])


def read_transition(
    node: ast.expr, of: str, states: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """Read `a | b > c`."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise LangError("a transition is a | b > c", node)
    if not isinstance(node.ops[0], ast.Gt):
        raise LangError("a transition is a | b > c", node)
    sources, parts = list[str](), [node.left]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr):
            parts += [part.right, part.left]
        else:
            sources.append(_state(part, of, states))
    target = _state(node.comparators[0], of, states)
    if len(set(sources)) != len(sources) or target in sources:
        raise LangError("the states of a transition differ", node)
    return tuple(sources), target


def _state(node: ast.expr, of: str, states: tuple[str, ...]) -> str:
    if not isinstance(node, ast.Name):
        raise LangError("a transition is between states: a | b > c", node)
    if node.id not in states:
        raise unknown(f"a state of {of}", node.id, states, node)
    return node.id


def setter(of: str, name: str) -> Run:
    """Return what writes the parameter `value` into a field."""

    def run(table: Table, values: Values) -> None:
        table.write(of, values["self"], name, values["value"])

    return run


def finish(
    draft: Draft, *, name: str, part: str, parameters: tuple[tuple[str, Type], ...],
    statements: tuple[Run, ...], shape: str, **more: Any,
) -> Action:  # fmt: skip
    """Make an action of a draft."""
    return Action(
        name=name, of=draft.of, part=part, parameters=parameters, statements=statements,
        guards=tuple(draft.guards),
        contract=Contract(frozenset(draft.reads), frozenset(draft.writes), frozenset(draft.makes)),
        sources=draft.sources, target=draft.target, shape=shape, **more,
    )  # fmt: skip
