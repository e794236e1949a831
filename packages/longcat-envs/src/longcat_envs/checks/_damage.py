"""Specs damaged on purpose: how many of the damages do the generated tests notice?

    reference   a name of an expression becomes another name of the same class or action
    guard       a condition, or an invariant, is left out
    effect      + and -, the sides of an order, a state, or a statement is exchanged or left out

A damage is noticed by the reader of the language, or by a test of the sound domain whose machine
behaves otherwise. What is compared is what calls do, never the text.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from longcat_envs.history import Setting
from longcat_envs.lang import LangError, read_spec
from longcat_envs.world import Machine
from longcat_envs.world.parts import PARTS

from ._tools import Tested, fault, reader_faults, written

Kind = Literal["reference", "guard", "effect"]
KINDS: tuple[Kind, ...] = ("reference", "guard", "effect")


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged text, and what was done to it."""

    kind: Kind
    what: str
    text: str


def damages(text: str, number: int, seed: int = 0) -> list[Damage]:
    """Damage the text of a domain so many times, each time in one place."""
    rng, found, seen = Random(f"damage:{seed}"), list[Damage](), {ast.unparse(ast.parse(text))}
    for attempt in range(20 * number):
        if len(found) >= number:
            break
        kind = KINDS[attempt % len(KINDS)]
        module = ast.parse(text)
        what = {"reference": _reference, "guard": _guard, "effect": _effect}[kind](module, rng)
        new = ast.unparse(ast.fix_missing_locations(module)) if what else ""
        if new and new not in seen:
            seen.add(new)
            found.append(Damage(kind, what, new))
    return found


def _bodies(module: ast.Module) -> list[ast.AST]:
    """Return the places where something is computed: actions, readers, values, invariants."""
    found: list[ast.AST] = []
    for one in module.body:
        if isinstance(one, ast.FunctionDef):
            found.append(one)
        for node in one.body if isinstance(one, ast.ClassDef) else []:
            is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            if isinstance(node, ast.FunctionDef | ast.Assign) or (is_call and _is_guard(node)):
                found.append(node)
    return found


def _reference(module: ast.Module, rng: Random) -> str:
    """Put another name of the file's words in the place of one."""
    bodies = _bodies(module)
    names = [n for b in bodies for n in ast.walk(b)
             if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]  # fmt: skip
    attributes = [n for b in bodies for n in ast.walk(b) if isinstance(n, ast.Attribute)]
    node = rng.choice([*names, *attributes])
    old = node.id if isinstance(node, ast.Name) else node.attr
    pool = names if isinstance(node, ast.Name) else attributes
    words = sorted({n.id if isinstance(n, ast.Name) else n.attr for n in pool} - {old})
    new = rng.choice(words)
    if isinstance(node, ast.Name):
        node.id = new
    else:
        node.attr = new
    return f"line {node.lineno}: {new} for {old}"


def _guard(module: ast.Module, rng: Random) -> str:
    """Leave out a condition or an invariant."""
    holders = [
        n for n in ast.walk(module) if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.If)
    ]
    places = [(h, s) for h in holders for s in h.body if _is_guard(s)]
    holder, node = rng.choice(places)
    holder.body = [ast.Pass() if s is node else s for s in holder.body]
    return f"line {node.lineno}: left out {ast.unparse(node)[:60]}"


def _is_guard(node: ast.stmt) -> bool:
    is_never = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    name = getattr(getattr(getattr(node, "value", None), "func", None), "id", "")
    return isinstance(node, ast.Assert) or (is_never and name == "never")


def _effect(module: ast.Module, rng: Random) -> str:
    """Exchange or leave out something that is done or computed."""
    nodes = [n for b in _bodies(module) for n in ast.walk(b)]
    kind = rng.choice(("sum", "order", "statement"))
    if kind == "sum":
        sums = [
            n for n in nodes if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Add | ast.Sub)
        ]
        if not sums:
            return ""
        node = rng.choice(sums)
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return f"line {node.lineno}: {ast.unparse(node)[:60]}"
    if kind == "order":
        orders = [n for n in nodes if isinstance(n, ast.Compare)
                  and isinstance(n.ops[0], tuple(_OTHER))]  # fmt: skip
        node = rng.choice(orders)
        node.ops = [_OTHER[type(node.ops[0])]()]
        return f"line {node.lineno}: {ast.unparse(node)[:60]}"
    holders = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.If)]
    places = [(h, s) for h in holders for s in h.body if isinstance(s, ast.Assign | ast.Expr)]
    if not places:
        return ""
    holder, statement = rng.choice(places)
    holder.body = [ast.Pass() if s is statement else s for s in holder.body]
    return f"line {statement.lineno}: left out {ast.unparse(statement)[:60]}"


_OTHER: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}  # fmt: skip


def noticed(setting: Setting, damage: Damage, tests: Sequence[Tested]) -> str:
    """Return how a damage is noticed: by `reading`, a `test`, a `reader`; empty if it is not."""
    try:
        spec = read_spec(damage.text, name=setting.spec.name, parts=PARTS)
    except LangError:
        return "reading"
    machine = Machine(spec)
    if set(machine.tools) != set(setting.machine.tools):
        return "test"
    try:
        if any(fault(setting, machine, test) for test in tests):
            return "test"
        readers = [t for t in setting.machine.tools.values() if t.kind in ("get", "query")]
        if any(any(reader_faults(setting, machine, t, Random(1))) for t in readers):
            return "reader"
    except (KeyError, TypeError, ValueError, AttributeError):  # the damaged domain cannot run
        return "test"
    return ""


def damage_figures(setting: Setting, *, number: int, seed: int = 0) -> dict[str, Any]:
    """Damage a domain so many times; return the share that is noticed, and what is not."""
    tests = list(written(setting, seed))
    made: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for damage in damages(setting.spec.source, number, seed):
        way = noticed(setting, damage, tests)
        made[damage.kind] += 1
        ways[f"{damage.kind}_noticed"] += bool(way)
        ways[way or "not noticed"] += 1
        if not way:
            rows.append({"kind": damage.kind, "damage": damage.what})
    num = sum(made.values())
    return {
        "summary": {
            "domain": setting.spec.name, "damages": num,
            "noticed": num - len(rows), "share_noticed": round(1 - len(rows) / max(1, num), 3),
            "kinds": {k: f"{ways[f'{k}_noticed']} of {made[k]}" for k in KINDS},
            "by": {way: ways[way] for way in ("reading", "test", "reader", "not noticed")},
        },
        "rows": rows,
    }  # fmt: skip
