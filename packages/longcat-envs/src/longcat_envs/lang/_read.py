"""From statements to a domain: types, values, actions, rules and readers, each checked."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace

from ._actions import ActionCompiler, Draft, finish, read_transition, setter, variable
from ._aggregates import read_loop
from ._errors import LangError, unknown
from ._expr import Compiler, Declared, Scope
from ._raw import PartText, RawClass, RawDomain, read_raw
from ._spec import Action, Class, Expression, Field, Guard, Query, Rule, Run, Spec, Table, Values
from ._statements import RESERVED, as_function, called, check, lives, shape, target, words
from ._types import FLAG, SIMPLE, Type

ENDED = "what has ended is not changed any more"


def read_spec(
    text: str, *, name: str, parts: Mapping[str, PartText], file: str = "", title: str = ""
) -> Spec:
    """Read a domain.

    Raises:
        LangError: The text breaks a rule; the error names file, line, column and nearest name.
    """
    try:
        raw = read_raw(text, parts)
        spec = _Reader(raw).read(name, title or name.replace("_", " "))
    except LangError as error:
        error.file = file or name
        raise
    except RecursionError:
        error = LangError("expressions are nested too deeply")
        error.file = file or name
        raise error from None
    lines = [line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    return replace(spec, source=text, lines=len(lines))


class _Reader:
    def __init__(self, raw: RawDomain) -> None:
        self.raw = raw
        self.declared: dict[str, Declared] = {}
        self.owners: dict[str, tuple[str, ...] | None] = {}
        self.fixed: dict[str, set[str]] = {}
        self.inside: dict[str, dict[str, ast.AST]] = {}
        self.rules: list[Rule] = []
        self.actions: dict[str, Action] = {}
        self.queries: dict[str, Query] = {}

    def read(self, name: str, title: str) -> Spec:
        """Read everything, in the order in which things need one another."""
        classes = self.raw.classes
        for raw in classes.values():
            self._declare(raw)
        self.compiler = Compiler(self.declared)
        self.actor = ActionCompiler(self.compiler, self._find, self._names, self.type_of)
        for raw in classes.values():
            self._defaults(raw)
            self._statements(raw)
        derived = {name: self._derive(raw) for name, raw in classes.items()}
        for raw in classes.values():
            self._actions(raw)
        for part, of, node in self.raw.queries:
            self._query(part, of, node)
        people = [name for name, raw in classes.items() if "person" in raw.marks]
        if len(people) != 1:
            raise LangError(f"one class is the person who asks: class x(person), got {people}")
        self._check_owners(people[0])
        parts = dict.fromkeys(
            ["record", "lifecycle", *(p for c in classes.values() for p in c.parts)]
        )
        return Spec(
            name=name, title=title,
            classes={name: self._class(raw, derived[name]) for name, raw in classes.items()},
            actions=self.actions, queries=self.queries, rules=tuple(self.rules),
            parts=tuple(parts), person=people[0],
        )  # fmt: skip

    # -- declarations ----------------------------------------------------------------------

    def _declare(self, raw: RawClass) -> None:
        one = Declared(raw.name, {}, {}, ())
        self.declared[raw.name] = one
        self.fixed[raw.name], self.inside[raw.name] = set(), {}
        for call in raw.calls:
            if call.func.id == "states" if isinstance(call.func, ast.Name) else False:
                if one.states or len(call.args) < 2 or call.keywords:
                    raise LangError("states(first, second, ...) stands once in a class", call)
                one.states = words(call, call.args)
        for node in raw.fields:
            assert isinstance(node.target, ast.Name)
            name = self._free_name(node.target, one)
            annotation, unique = node.annotation, False
            if isinstance(annotation, ast.Call) and called(annotation) == "unique":
                if len(annotation.args) != 1 or annotation.keywords:
                    raise LangError("unique(type)", annotation)
                annotation, unique = annotation.args[0], True
            type_ = self.type_of(annotation)
            if unique and type_.kind not in ("text", "int"):
                raise LangError("what is unique is a text or a number", annotation)
            one.fields[name] = Field(name, type_, unique)
        for _, node in raw.values:
            assert isinstance(node.targets[0], ast.Name)
            if not self._is_transition(node.value, one.states):
                one.derived[self._free_name(node.targets[0], one)] = node.value

    def _free_name(self, node: ast.Name, one: Declared) -> str:
        name = node.id
        if name in RESERVED or name.startswith("_") or not name.isascii() or name != name.lower():
            raise LangError(f"{name!r} is not a name for a field", node)
        if name in one.fields or name in one.derived:
            raise LangError(f"{name!r} is there twice in {one.name}", node)
        return name

    def type_of(self, node: ast.expr) -> Type:
        """Read a type."""
        if isinstance(node, ast.Name):
            if node.id in SIMPLE:
                return SIMPLE[node.id]
            if node.id in self.raw.classes:
                return Type("ref", node.id)
            raise unknown("a type or class", node.id, [*SIMPLE, *self.raw.classes], node)
        if isinstance(node, ast.Call) and not node.keywords:
            if called(node) == "optional" and len(node.args) == 1:
                inner = self.type_of(node.args[0])
                if inner.is_optional or inner.kind == "days":
                    raise LangError(f"optional({inner}) is not a type", node)
                return replace(inner, is_optional=True)
            if called(node) == "enum" and len(node.args) >= 2:
                return Type("enum", options=words(node, node.args))
        raise LangError("a type is text, int, money, date, days, flag, enum(a, b), a class or "
                        "optional(type)", node)  # fmt: skip

    def _is_transition(self, node: ast.expr, states: tuple[str, ...]) -> bool:
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Gt):
            return False
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        is_choice = isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.BitOr)
        return bool(states) and (is_choice or any(n.id in states for n in names))

    def _defaults(self, raw: RawClass) -> None:
        one = self.declared[raw.name]
        for node in raw.fields:
            if node.value is None or not isinstance(node.target, ast.Name):
                continue
            field, value, fixed = one.fields[node.target.id], node.value, False
            scope = Scope(None, {})
            if isinstance(value, ast.Call) and called(value) == "agreed" and len(value.args) == 1:
                value, fixed = value.args[0], True
                scope = Scope(None, {n: variable(n, f.type) for n, f in one.fields.items()})
            default = self.compiler.compile(value, scope, field.type)
            one.fields[field.name] = replace(field, default=default, is_fixed=fixed)

    def _statements(self, raw: RawClass) -> None:
        for call in raw.calls:
            name = called(call)
            if name == "owner":
                self._owner(raw, call)
            elif name == "fixed":
                fields = words(call, call.args)
                for field in fields:
                    if field not in self.declared[raw.name].fields:
                        known = self.declared[raw.name].fields
                        raise unknown(f"a field of {raw.name}", field, known, call)
                self.fixed[raw.name] |= set(fields)
            elif name == "inside":
                self.inside[raw.name].update(dict.fromkeys(words(call, call.args), call))
            elif name == "never":
                self._never(raw, call)

    def _owner(self, raw: RawClass, call: ast.Call) -> None:
        if len(call.args) != 1 or raw.name in self.owners:
            raise LangError("owner(way.to.the.person) stands once in a class", call)
        path, node = list[str](), call.args[0]
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            raise LangError("owner(way.to.the.person)", call)
        path.insert(0, node.id)
        here = self.compiler.compile(call.args[0], Scope(self.compiler.about(raw.name), {}))
        if here.type.kind != "ref" or "person" not in self.raw.classes[here.type.of].marks:
            raise LangError("the owner of a record is a person", call)
        self.owners[raw.name] = tuple(path)

    def _never(self, raw: RawClass, call: ast.Call) -> None:
        reason = call.args[1].value if len(call.args) == 2 and isinstance(
            call.args[1], ast.Constant) else None  # fmt: skip
        words = {word.arg: word.value for word in call.keywords}
        if not isinstance(reason, str) or not reason.strip() or not set(words) <= {"scan"}:
            raise LangError('never(condition, "reason")', call)
        scope = Scope(self.compiler.about(raw.name), {})
        bad = self.compiler.compile(call.args[0], scope, FLAG)
        if any(read.name == "today" for read in bad.reads) or bad.sql is None:
            raise LangError("an invariant does not depend on today: the clock alone would break it",
                            call)  # fmt: skip
        is_scan = "scan" in words
        lost = sorted(f"{r.of}.{r.name or 'records'}" for r in bad.reads if r.way is None)
        if lost and not is_scan:
            raise LangError(f"cannot tell which {raw.name} a change of {lost[0]} concerns; link it "
                            "by x.field == ..., or add scan=True", call)  # fmt: skip
        self.rules.append(Rule(raw.name, bad, reason, is_scan))

    def _derive(self, raw: RawClass) -> dict[str, Expression]:
        scope = Scope(self.compiler.about(raw.name), {})
        one = self.declared[raw.name]
        name_node = {
            n.targets[0].id: n for _, n in raw.values if isinstance(n.targets[0], ast.Name)
        }
        found: dict[str, Expression] = {}
        for name in one.derived:
            assert scope.here is not None
            found[name] = self.compiler.access(scope.here, name, name_node[name].value, scope)
            if found[name].type.kind in ("symbol", "none"):
                raise LangError(f"{name} has no type", name_node[name])
        return found

    # -- actions and readers ---------------------------------------------------------------

    def _find(self, of: str, name: str) -> ast.FunctionDef | None:
        for _, node in self.raw.classes[of].actions:
            if node.name == name and name != "create":
                return node
        for _, node in self.raw.classes[of].values:
            target = node.targets[0]
            is_it = isinstance(target, ast.Name) and target.id == name
            if is_it and name not in self.declared[of].derived:
                return as_function(name, node)
        return None

    def _names(self, of: str) -> list[str]:
        raw = self.raw.classes[of]
        values = [n.targets[0].id for _, n in raw.values if isinstance(n.targets[0], ast.Name)]
        return [node.name for _, node in raw.actions] + values

    def _actions(self, raw: RawClass) -> None:
        one = self.declared[raw.name]
        create = next((node for _, node in raw.actions if node.name == "create"), None)
        if "made_by_tools" not in raw.marks:
            self._create(raw, create)
            self._setters(raw)
        elif create is not None:
            raise LangError(f"{raw.name} is made by tools and has no create", create)
        known: set[str] = set()
        for part, node in raw.values:
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id not in one.derived:
                self._action(raw, part, as_function(target.id, node), known)
        for part, node in raw.actions:
            if node.name != "create":
                self._action(raw, part, node, known)
        for name, place in self.inside[raw.name].items():
            if name not in known:
                raise unknown(f"an action of {raw.name}", name, known, place)

    def _action(self, raw: RawClass, part: str, node: ast.FunctionDef, known: set[str]) -> None:
        if node.name in known or node.name in self.declared[raw.name].fields:
            raise LangError(f"{node.name!r} is there twice in {raw.name}", node)
        known.add(node.name)
        parameters = self.actor.parameters(node)
        for name, _ in parameters:
            if name in ("self", "id", "today", f"{raw.name}_id"):
                raise LangError(f"{name!r} is not a name for a parameter", node)
        scope = Scope(self.compiler.about(raw.name), {n: variable(n, t) for n, t in parameters})
        draft = Draft(raw.name)
        runs = self.actor.body(node.body, draft, scope, (f"{raw.name}.{node.name}",))
        if not draft.writes:
            raise LangError(f"{node.name} changes nothing", node)
        edited = node.name[4:] if node.name.startswith("set_") else ""
        name = f"set_{raw.name}_{edited}" if edited else f"{node.name}_{raw.name}"
        self._add(finish(
            draft, name=name, part=part, parameters=parameters, statements=runs,
            is_inside=node.name in self.inside[raw.name], edits=edited,
            shape=shape(parameters, node.body),
        ), node)  # fmt: skip

    def _create(self, raw: RawClass, node: ast.FunctionDef | None) -> None:
        one = self.declared[raw.name]
        parameters = tuple((f.name, f.type) for f in one.fields.values() if f.default is None)
        make = self.actor.maker(raw.name, {n: variable(n, t).run for n, t in parameters}, raw.node)
        draft = Draft(raw.name, makes={raw.name})
        written = [*one.fields, *(["state"] if one.states else [])]
        draft.writes |= {f"{raw.name}.{name}" for name in written}
        runs: tuple[Run, ...] = ()
        if node is not None:
            if self.actor.parameters(node):
                raise LangError("create takes the fields of the class and nothing else", node)
            runs = self.actor.body(node.body, draft, Scope(self.compiler.about(raw.name), {}))

        def run(table: Table, values: Values) -> None:
            values["self"] = make(table, values)

        self._add(finish(
            draft, name=f"create_{raw.name}", part="record", parameters=parameters,
            statements=(run, *runs), makes_record=True,
            shape=shape(parameters, node.body if node is not None else []),
            is_inside="person" in raw.marks or raw.name not in self.owners,
        ), node or raw.node)  # fmt: skip

    def _setters(self, raw: RawClass) -> None:
        one = self.declared[raw.name]
        ends = self._ends(raw)
        own = {node.name for _, node in raw.actions}
        for name, field in one.fields.items():
            plain = field.type.kind in ("text", "int", "money", "date", "enum", "flag")
            skip = field.is_unique or field.is_fixed or name in self.fixed[raw.name]
            if not plain or skip or f"set_{name}" in own:
                continue
            draft = Draft(raw.name, writes={f"{raw.name}.{name}"})
            runs: list[Run] = []
            if ends:
                guard = Guard(lives(raw.name, ends), ENDED, frozenset({f"{raw.name}.state"}), True)
                draft.guards.append(guard)
                draft.reads.add(f"{raw.name}.state")
                runs.append(check(guard))
            if field.type.kind in ("int", "money"):
                guard = Guard(
                    lambda t, v: v["value"] >= 0, "a number is not below zero", frozenset()
                )
                draft.guards.append(guard)
                runs.append(check(guard))
            parameters = (("value", field.type),)
            self._add(finish(
                draft, name=f"set_{raw.name}_{name}", part="record", parameters=parameters,
                statements=(*runs, setter(raw.name, name)), edits=name,
                is_inside=raw.name not in self.owners and "person" not in raw.marks,
                shape=shape(parameters, []),
            ), raw.node)  # fmt: skip

    def _add(self, action: Action, node: ast.AST) -> None:
        if action.name in self.actions or action.name in self.queries:
            raise LangError(f"two tools have the name {action.name!r}", node)
        self.actions[action.name] = action

    def _query(self, part: str, of: str, node: ast.FunctionDef) -> None:
        name = node.name if not of or of in node.name else f"{node.name}_{of}"
        if name in self.queries or name in self.actions:
            raise LangError(f"two tools have the name {name!r}", node)
        parameters = self.actor.parameters(node)
        body = node.body[0] if len(node.body) == 1 else None
        value = body.value if isinstance(body, ast.Return) else None
        if not isinstance(value, ast.ListComp):
            raise LangError("a reader returns [x for x in class if condition]", node)
        one, result, tests = read_loop(self.compiler, value.generators, value)
        if not isinstance(value.elt, ast.Name) or value.elt.id != one:
            raise LangError("a reader returns [x for x in class if condition]", value)
        scope = Scope(None, {n: variable(n, t) for n, t in parameters})
        scope = scope.bind(one, variable(one, Type("ref", result)))
        everything = ast.copy_location(ast.Constant(True), value)
        test = ast.BoolOp(ast.And(), [everything, *tests])
        condition = self.compiler.compile(ast.copy_location(test, value), scope, FLAG)
        about = [t.of for _, t in parameters if t.kind == "ref"]
        self.queries[name] = Query(
            name, part, parameters, result, one, condition, about[0] if about else ""
        )

    # -- the whole -------------------------------------------------------------------------

    def _ends(self, raw: RawClass) -> frozenset[str]:
        one = self.declared[raw.name]
        left: set[str] = set()
        reached: set[str] = set(one.states[:1])
        for node in self._transitions(raw):
            sources, target = read_transition(node, raw.name, one.states)
            left |= set(sources)
            reached.add(target)
        for state in one.states:
            if state not in reached:
                raise LangError(f"nothing leads to the state {state!r} of {raw.name}", raw.node)
        return frozenset(one.states) - left

    def _transitions(self, raw: RawClass) -> list[ast.expr]:
        one = self.declared[raw.name]
        found = [n.value for _, n in raw.values if target(n) not in one.derived]
        for _, node in raw.actions:
            found += [s.value for s in ast.walk(node)
                      if isinstance(s, ast.Expr) and isinstance(s.value, ast.Compare)]  # fmt: skip
        return found

    def _class(self, raw: RawClass, derived: dict[str, Expression]) -> Class:
        one = self.declared[raw.name]
        fixed = self.fixed[raw.name]
        fields = {n: replace(f, is_fixed=f.is_fixed or n in fixed) for n, f in one.fields.items()}
        owner = () if "person" in raw.marks else self.owners.get(raw.name)
        return Class(
            raw.name, fields, derived, one.states, self._ends(raw) if one.states else frozenset(),
            owner, "made_by_tools" in raw.marks, tuple(raw.parts),
        )  # fmt: skip

    def _check_owners(self, person: str) -> None:
        if not any(
            f.is_unique and f.type.kind == "text" for f in self.declared[person].fields.values()
        ):
            raise LangError(f"the person {person} has a unique text by which they are known",
                            self.raw.classes[person].node)  # fmt: skip
