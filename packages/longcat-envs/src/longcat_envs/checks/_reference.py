"""A second reading of whole calls: what a tool must do to plain rows, or why it must refuse.

It is the oracle of the generated tests: it reads the same text as the compiler, but by walking it
(`_walk.py`), and looks at every record for every invariant.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from longcat_envs.lang import Spec, Type
from longcat_envs.lang._raw import RawDomain, read_raw
from longcat_envs.lang._read import ENDED
from longcat_envs.world import Store, Tool
from longcat_envs.world.parts import PARTS

from ._walk import Here, Rows, Value, Walker, stored, typed


class Refusal(Exception):
    """The call must be refused, for one of these reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = frozenset(reasons)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a call must come to."""

    reasons: frozenset[str] = frozenset()
    """Why it is refused, several if several invariants would break; empty if it is done."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    """Records that differ afterwards, by `class:id`; new ones by `class#number`, whole."""
    found: tuple[str, ...] = ()
    """For readers: the ids that are found, in order."""


class Reference:
    """A domain, read by walking its text."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.raw: RawDomain = read_raw(spec.source, PARTS)
        self.rules = [
            (of, call) for of, one in self.raw.classes.items() for call in one.calls
            if isinstance(call.func, ast.Name) and call.func.id == "never"
        ]  # fmt: skip

    def call(self, store: Store, tool: Tool, values: dict[str, Any]) -> Expected:
        """Return what a call with checked values must come to in a world."""
        rows: Rows = {of: {i: store.row(of, i) for i in store.ids(of)} for of in self.spec.classes}
        return _Call(self, rows, store.today).run(tool, dict(values))

    def action(self, of: str, name: str) -> ast.FunctionDef | ast.Assign | None:
        """Return the text of an action, or of a transition."""
        one = self.raw.classes[of]
        for _, node in one.actions:
            if node.name == name:
                return node
        for _, node in one.values:
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id == name:
                return node
        return None


class _Call:
    def __init__(self, reference: Reference, rows: Rows, today: int) -> None:
        self.reference, self.spec, self.start = reference, reference.spec, rows
        self.rows: Rows = {of: dict(records) for of, records in rows.items()}
        self.walker = Walker(self.spec, reference.raw, self.rows, today)

    def run(self, tool: Tool, values: dict[str, Any]) -> Expected:
        if tool.query is not None:
            return self._query(tool, values)
        try:
            self._write(tool, values)
            self._check()
        except Refusal as refused:
            return Expected(refused.reasons)
        return Expected(rows=self._difference())

    def _difference(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for of, records in self.rows.items():
            for identifier, row in records.items():
                old = self.start[of].get(identifier)
                if old is None:
                    found[identifier] = row
                elif old != row:
                    found[f"{of}:{identifier}"] = {n: v for n, v in row.items() if old[n] != v}
        return found

    def _query(self, tool: Tool, values: dict[str, Any]) -> Expected:
        query = tool.query
        assert query is not None
        node = next(n for _, of, n in self.reference.raw.queries if query.name in
                    (n.name, f"{n.name}_{of}"))  # fmt: skip
        value = node.body[0].value if isinstance(node.body[0], ast.Return) else None
        assert isinstance(value, ast.ListComp)
        names = {name: typed(values[name], type_) for name, type_ in query.parameters}
        places = self.walker.fitting(value, Here(None, names))
        return Expected(found=tuple(p.names[query.variable].value for p in places))

    # -- writing -----------------------------------------------------------------------------

    def _write(self, tool: Tool, values: dict[str, Any]) -> None:
        action = tool.action
        assert action is not None
        names = {name: typed(values[name], type_) for name, type_ in action.parameters}
        if action.makes_record:
            made = self._make(action.of, names)
            body = self.reference.action(action.of, "create")
            if isinstance(body, ast.FunctionDef):
                self._statements(body.body, Here(made, {}))
            return
        me = Value("ref", values[f"{action.of}_id"], action.of)
        own = action.name.removesuffix(f"_{action.of}")
        node = self.reference.action(action.of, f"set_{action.edits}" if action.edits else own)
        if node is None:
            self._set(me, action.edits, values["value"])
        else:
            self._perform(node, Here(me, names))

    def _set(self, me: Value, name: str, value: Any) -> None:
        """Change a plain field, by the rule for all plain fields."""
        one = self.spec.classes[me.of]
        row = self.rows[me.of][me.value]
        if one.ends and row["state"] in one.ends:
            raise Refusal(ENDED)
        if one.fields[name].type.kind in ("int", "money") and value < 0:
            raise Refusal("a number is not below zero")
        self._put(me, name, value)

    def _put(self, record: Value, name: str, value: Any) -> None:
        row = self.rows[record.of][record.value]
        self.walker.put(record.of, record.value, {**row, name: value})

    def _make(self, of: str, given: dict[str, Value]) -> Value:
        one = self.spec.classes[of]
        nodes = {n.target.id: n.value for n in self.reference.raw.classes[of].fields
                 if isinstance(n.target, ast.Name)}  # fmt: skip
        row: dict[str, Any] = {}
        for name, declared in one.fields.items():
            value = given.get(name)
            node = nodes[name]
            if value is None and node is not None:
                is_agreed = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "agreed"
                if is_agreed and isinstance(node, ast.Call):
                    value = self.walker.read(node.args[0], Here(None, given))
                else:
                    value = self.walker.read(node, Here(None, {}))
            assert value is not None
            row[name] = stored(value, declared.type)
        if one.states:
            row["state"] = one.states[0]
        number = sum(i not in self.start[of] for i in self.rows[of])
        identifier = f"{of}#{number}"
        self.walker.put(of, identifier, row)
        return Value("ref", identifier, of)

    def _perform(self, node: ast.FunctionDef | ast.Assign, here: Here) -> None:
        if isinstance(node, ast.Assign):
            self._transition(node.value, here)
        else:
            self._statements(node.body, here)

    def _statements(self, statements: list[ast.stmt], here: Here) -> None:
        for node in statements:
            if isinstance(node, ast.Assert):
                if not self.walker.is_true(node.test, here):
                    raise Refusal(getattr(node.msg, "value", ""))
            elif isinstance(node, ast.If):
                is_so = self.walker.is_true(node.test, here)
                self._statements(node.body if is_so else node.orelse, here)
            elif isinstance(node, ast.Assign):
                self._assign(node, here)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare):
                self._transition(node.value, here)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self._act(node.value, here)

    def _transition(self, node: ast.expr, here: Here) -> None:
        assert isinstance(node, ast.Compare)
        assert here.about is not None
        sources = [name.strip() for name in ast.unparse(node.left).split("|")]
        target = node.comparators[0]
        assert isinstance(target, ast.Name)
        if self.walker.field(here.about, "state").value not in sources:
            of = here.about.of.replace("_", " ")
            raise Refusal(f"the {of} must be {' or '.join(sources)}")
        self._put(here.about, "state", target.id)

    def _assign(self, node: ast.Assign, here: Here) -> None:
        target, record = node.targets[0], here.about
        value = self.walker.read(node.value, here)
        if isinstance(target, ast.Attribute):
            record, name = self.walker.read(target.value, here), target.attr
        else:
            name = getattr(target, "id", "")
        assert record is not None
        self._put(record, name, stored(value, self.spec.classes[record.of].fields[name].type))

    def _act(self, node: ast.Call, here: Here) -> None:
        func = node.func
        if isinstance(func, ast.Name) and func.id == "new":
            of = getattr(node.args[0], "id", "")
            given = {str(w.arg): self.walker.read(w.value, here) for w in node.keywords}
            self._make(of, {n: _as(v, self.spec.classes[of].fields[n].type)
                            for n, v in given.items()})  # fmt: skip
            return
        record, name = here.about, getattr(func, "id", "")
        if isinstance(func, ast.Attribute):
            record, name = self.walker.read(func.value, here), func.attr
        assert record is not None
        action = self.reference.action(record.of, name)
        assert action is not None
        arguments = action.args.args if isinstance(action, ast.FunctionDef) else []
        names = {
            argument.arg: _as(self.walker.read(given, here), self._type(argument.annotation))
            for argument, given in zip(arguments, node.args, strict=True)
        }
        self._perform(action, Here(record, names))

    def _type(self, node: ast.expr | None) -> Type:
        name = node.id if isinstance(node, ast.Name) else ""
        return Type("money") if name == "money" else Type("text")

    # -- afterwards --------------------------------------------------------------------------

    def _check(self) -> None:
        """Look at every unique field and every invariant of every record."""
        for of, one in self.spec.classes.items():
            for name, declared in one.fields.items():
                made = [r[name] for i, r in self.rows[of].items()
                        if self.start[of].get(i, {}).get(name) != r[name]]  # fmt: skip
                values = [row[name] for row in self.rows[of].values()]
                if declared.is_unique and any(values.count(value) > 1 for value in made):
                    words = of.replace("_", " ")
                    raise Refusal(f"there is a {words} with this {name} already")
        broken = [
            getattr(call.args[1], "value", "")
            for of, call in self.reference.rules
            if any(self.walker.is_true(call.args[0], Here(Value("ref", identifier, of), {}))
                   for identifier in self.rows[of])
        ]  # fmt: skip
        if broken:
            raise Refusal(*broken)


def _as(value: Value, type_: Type) -> Value:
    is_amount = value.kind == "literal" and type_.kind == "money"
    return Value("money", value.value * 100) if is_amount else value
