"""Generated unit tests of tools: effects, refusals, no effect on refusal, and what readers show.

Each writing tool is called in worlds with a past; a second reading of the domain's text says what
must come of it (`_reference.py`). Each guard that could be brought about must refuse, and then
nothing has changed. Readers are compared with a walk over all records.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from longcat_envs.history import Setting
from longcat_envs.lang import Spec, show
from longcat_envs.world import CallRefused, LiveWorld, Machine, Tool, argument_names

from ._cases import IDLE, PASTS, Case, Finder
from ._reference import Expected, Reference
from ._walk import Value, Walker

RECORDS = 6
"""Records that are shown, and searches that are made, for each class."""


@dataclass(slots=True)
class ToolReport:
    """What the tests of one tool found."""

    tool: str
    num_tests: int = 0
    is_done: bool = False
    """Whether an effect was seen: always so for readers."""
    guards: int = 0
    refused: int = 0
    """Guards that were seen to refuse."""
    open: list[str] = field(default_factory=list[str])
    """Reasons that could not be brought about."""
    faults: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Tested:
    """A case and what must come of it."""

    case: Case
    expected: Expected


def start(setting: Setting, machine: Machine, case: Case) -> LiveWorld:
    """Return the world of a case, in which a machine makes the calls."""
    world = LiveWorld(machine, setting.past(case.past).base)
    world.store.today += case.days
    for name, arguments in case.before:
        world.call(name, arguments)
    return world


def written(
    tests: Setting, seed: int = 0, tools: list[Tool] | None = None, num_pasts: int = PASTS
) -> Iterator[Tested]:
    """Write the tests of a domain's writing tools."""
    finder, reference = Finder(tests, seed, num_pasts), Reference(tests.spec)
    for tool in tools if tools is not None else finder.writers:
        for case in finder.cases(tool):
            world = start(tests, tests.machine, case)
            values = world.arguments(tool, case.arguments)
            yield Tested(case, reference.call(world.store, tool, values))


def fault(setting: Setting, machine: Machine, test: Tested) -> str:
    """Run one test with a machine; return what is wrong, empty if nothing is."""
    case, expected = test.case, test.expected
    try:
        world = start(setting, machine, case)
    except CallRefused as refused:
        return f"a call that leads to the case is refused: {refused}"
    before = (world.store.difference(), list(world.events), set(world.touched))
    kept = {of: {i: world.store.row(of, i) for i in world.store.ids(of)}
            for of in machine.spec.classes}  # fmt: skip
    try:
        result = world.call(case.tool, case.arguments)
    except CallRefused as refused:
        if (world.store.difference(), list(world.events), set(world.touched)) != before:
            return f"{case.arguments}: a refused call left a trace"
        if str(refused) not in expected.reasons:
            must = " or ".join(sorted(expected.reasons)) or "done"
            return f"{case.arguments}: refused ({refused}), must be {must}"
        return ""
    json.dumps(result)
    if expected.reasons:
        return f"{case.arguments}: done, must be refused ({' or '.join(sorted(expected.reasons))})"
    effect = _effect(world, kept)
    return "" if effect == expected.rows else f"{case.arguments}: {effect}, must be {expected.rows}"


def _effect(world: LiveWorld, kept: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what the last call changed, new records by class and number."""
    numbers = {
        i: f"{of}#{number}" for of in kept
        for number, i in enumerate(i for i in world.store.ids(of) if i not in kept[of])
    }  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for of, identifier in dict.fromkeys((c.of, c.id) for c in world.changes):
        row, old = world.store.row(of, identifier), kept[of].get(identifier)
        shown = {name: numbers.get(value, value) if isinstance(value, str) else value
                 for name, value in row.items()}  # fmt: skip
        if old is None:
            found[numbers[identifier]] = shown
        elif old != row:
            found[f"{of}:{identifier}"] = {n: v for n, v in shown.items() if old[n] != row[n]}
    return found


# -- bad arguments -----------------------------------------------------------------------------


def bad_arguments(world: LiveWorld, tool: Tool, good: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with how a tool takes arguments of wrong names and types."""
    calls: list[tuple[str, dict[str, Any]]] = [("an unknown argument", {**good, "no_such": 1})]
    for name in argument_names(tool):
        if name in good:
            wrong: dict[str, Any] = {**good, name: [1]}
            calls.append((f"a list as {name}", wrong))
            calls.append((f"an unknown id as {name}", {**good, name: "ZZ00000"}))
        required = {n for p in tool.parameters if p.is_required and not p.type.is_optional
                    for n in (p.name, f"{p.name}_from", f"{p.name}_until")}  # fmt: skip
        if name in required:
            calls.append((f"{name} left out", {k: v for k, v in good.items() if k != name}))
    types = {p.name: p.type.kind for p in tool.parameters}
    before = world.store.difference()
    for what, arguments in calls:
        if what.startswith("an unknown id") and types.get(what.split(" ")[-1]) != "ref":
            continue
        try:
            world.call(tool.name, arguments)
        except CallRefused:
            if world.store.difference() != before:
                yield f"{what} is refused and leaves a trace"
        else:
            yield f"{what} is accepted"
            world.reset()


# -- readers -------------------------------------------------------------------------------------


def reader_faults(setting: Setting, machine: Machine, tool: Tool, rng: Random) -> Iterator[str]:
    """Yield where a reader does not show what a walk over all records shows."""
    world = LiveWorld(machine, setting.past(0).base)
    if tool.kind == "get":
        yield from _shown(setting.spec, world, tool, rng)
    elif tool.kind == "search":
        yield from _searched(world, tool, rng)
    else:
        yield from _queried(setting, world, tool, rng)


def _shown(spec: Spec, world: LiveWorld, tool: Tool, rng: Random) -> Iterator[str]:
    of, store = tool.of, world.store
    rows = {c: {i: store.row(c, i) for i in store.ids(c)} for c in spec.classes}
    walker = Walker(spec, Reference(spec).raw, rows, store.today)
    for identifier in rng.sample(store.ids(of), min(RECORDS, len(store.ids(of)))):
        result = world.call(tool.name, {f"{of}_id": identifier})
        for name in spec.classes[of].derived:
            value = walker.field(Value("ref", identifier, of), name)
            type_ = spec.classes[of].derived[name].type
            if result.get(name) != show(type_, value.value):
                yield f"{identifier}: {name} is {result.get(name)}, must be {value.value}"
        for name, field_ in spec.classes[of].fields.items():
            if field_.type.kind != "days" and result.get(name) != show(
                field_.type, rows[of][identifier][name]
            ):
                yield f"{identifier}: {name} is {result.get(name)}"


def _searched(world: LiveWorld, tool: Tool, rng: Random) -> Iterator[str]:
    of, store = tool.of, world.store
    one = world.machine.spec.classes[of]
    for _ in range(RECORDS if store.ids(of) else 0):
        row = store.row(of, rng.choice(store.ids(of)))
        names = [n for n in row if n == "state" or one.fields[n].type.kind != "days"]
        chosen = rng.sample(names, min(len(names), rng.randint(1, 2)))
        chosen = [name for name in chosen if row[name] is not None]
        filters = {n: row[n] if n == "state" else show(one.fields[n].type, row[n]) for n in chosen}
        wanted = [i for i in store.ids(of) if all(store.row(of, i)[n] == row[n] for n in chosen)]
        pages = [world.call(tool.name, {**filters, "page": page})
                 for page in range(1, 2 + len(wanted) // 10)]  # fmt: skip
        shown = [found[f"{of}_id"] for page in pages for found in page["rows"]]
        if sorted(shown) != sorted(wanted) or pages[0]["total"] != len(wanted):
            yield f"{filters}: {len(shown)} found, must be {len(wanted)}"


def _queried(setting: Setting, world: LiveWorld, tool: Tool, rng: Random) -> Iterator[str]:
    reference, finder = Reference(setting.spec), Finder(setting, num_pasts=1)
    for _ in range(3):
        arguments = finder.any_arguments(tool)
        values = world.arguments(tool, arguments)
        expected = reference.call(world.store, tool, values).found
        result = world.call(tool.name, arguments)
        shown = [row[f"{tool.of}_id"] for row in result["rows"]]
        if result["total"] != len(expected) or shown != list(expected)[: len(shown)]:
            yield f"{arguments}: {result['total']} found, must be {len(expected)}"


# -- the whole -----------------------------------------------------------------------------------


def check_tools(
    setting: Setting, *, seed: int = 0, names: Collection[str] | None = None,
    num_pasts: int = PASTS,
) -> list[ToolReport]:  # fmt: skip
    """Test the tools of a domain: all of them, or those named."""
    rng, reports = Random(seed), list[ToolReport]()
    by_tool: dict[str, list[Tested]] = {}
    tools = [t for t in setting.machine.tools.values() if names is None or t.name in names]
    writers = [tool for tool in tools if tool.is_writer]
    for test in written(setting, seed, writers, num_pasts):
        by_tool.setdefault(test.case.tool, []).append(test)
    for tool in tools:
        report = ToolReport(tool.name, is_done=not tool.is_writer)
        reports.append(report)
        if tool.action is None:
            report.num_tests = RECORDS if tool.kind != "query" else 3
            report.faults += reader_faults(setting, setting.machine, tool, rng)
            continue
        tests = by_tool.get(tool.name, [])
        report.num_tests = len(tests)
        report.faults += [f for test in tests if (f := fault(setting, setting.machine, test))]
        report.is_done = any(test.expected.rows for test in tests)
        if not report.is_done and any(test.case.outcome == IDLE for test in tests):
            report.faults.append("it succeeds, and was never seen to change anything")
        reasons = {g.reason for g in tool.action.guards}
        seen = {reason for test in tests for reason in test.expected.reasons}
        report.guards, report.refused = len(reasons), len(reasons & seen)
        report.open = sorted(reasons - seen)
        done = next((t.case for t in tests if not t.expected.reasons), None)
        if done is not None:
            world = start(setting, setting.machine, done)
            report.faults += bad_arguments(world, tool, done.arguments)
            report.num_tests += 2 * len(argument_names(tool)) + 1
    return reports


def tool_figures(setting: Setting, *, seed: int = 0) -> dict[str, Any]:
    """Test every tool of a domain; return the figures, and each tool that is not wholly tested."""
    reports = check_tools(setting, seed=seed)
    guards, refused = sum(r.guards for r in reports), sum(r.refused for r in reports)
    rows = [asdict(r) for r in reports if r.faults or r.open or not r.is_done]
    return {
        "summary": {
            "domain": setting.spec.name, "tools": len(reports),
            "tests": sum(r.num_tests for r in reports),
            "tools_that_acted": sum(r.is_done for r in reports), "guards": guards,
            "guards_that_refused": refused, "faults": sum(len(r.faults) for r in reports),
        },
        "rows": rows,
    }  # fmt: skip
