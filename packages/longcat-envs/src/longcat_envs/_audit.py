"""Try to fool the verifier of a task; a task is admitted only if that fails.

- Chains: the golden chain must meet every rubric and be executable by the contracts alone. Doing
  nothing, stopping early, leaving out any write, acting on another record, doing one thing too
  much, answering without looking, and denying the answer must each fail.
- Words: every literal of the golden chain is said by the person or yielded by an earlier call, one
  record alone fits what was said, and no placeholder is left.
- Verifier: the rubrics name all that the golden chain changes and finds, derived anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from ._database import Database, Tables, ToolError, difference
from ._graph import WRITES, ToolGraph
from ._spec import Domain
from ._task import RUBRIC_KINDS, Reward, Step, Task, judge
from ._tools import Tool


def result_values(result: Any) -> Iterator[str]:
    """Yield every value in a tool's result."""
    if isinstance(result, dict):
        for value in cast("dict[str, Any]", result).values():
            yield from result_values(value)
    elif isinstance(result, list):
        for value in cast("list[Any]", result):
            yield from result_values(value)
    else:
        yield str(result)


def run_chain(
    database: Database, tools: Mapping[str, Tool], task: Task, steps: Sequence[Step], answer: str
) -> tuple[Reward, int]:
    """Run calls from the initial state; return the judgement and how many calls were refused."""
    database.reset()
    refused, seen = 0, set[str]()
    for step in steps:
        try:
            seen.update(result_values(database.call(tools[step.tool], step.arguments)))
        except ToolError:
            refused += 1
    return judge(task, database.tables(), answer, seen=seen), refused


def audit(domain: Domain, tools: Mapping[str, Tool], task: Task) -> list[str]:
    """Return what is wrong with a task; an empty list admits it."""
    kinds = {rubric.kind for rubric in task.rubrics}
    if not task.rubrics or not kinds <= set(RUBRIC_KINDS):
        return [f"a task must have rubrics of known kinds, has {sorted(kinds)}"]
    missing = [step.tool for step in task.golden if step.tool not in task.tools]
    if missing:
        return [f"the golden chain uses {missing}, which the environment lacks"]
    faults: list[str] = []
    if not ToolGraph({name: tools[name] for name in task.tools}).is_executable(
        step.tool for step in task.golden
    ):
        faults.append("the golden chain is not executable by its contracts")
    database = Database(domain, task.tables)
    try:
        reward, refused = run_chain(database, tools, task, task.golden, task.answer)
        if reward.total != 1 or refused:
            return [*faults, f"the golden chain fails: {dict(reward.parts)}, {refused} refused"]
        faults += _verifier_faults(task, database.tables())
        faults += _word_faults(database, tools, task)
        for name, steps, answer in wrong_chains(tools, task):
            if run_chain(database, tools, task, steps, answer)[0].total == 1:
                faults.append(f"a wrong chain passes: {name}")
    finally:
        database.close()
    return faults


def _verifier_faults(task: Task, after: Tables) -> Iterator[str]:
    """What the golden chain changed and found out must be what the rubrics ask for."""
    if all(rubric.kind != "untouched" for rubric in task.rubrics):
        yield "no rubric asks that nothing else changes"
    states = [rubric for rubric in task.rubrics if rubric.kind == "state"]
    created = [rubric for rubric in task.rubrics if rubric.kind == "created"]
    for (table, identifier), row in difference(task.tables, after).items():
        before = task.tables[table].get(identifier)
        if row is None or before is None:
            values = {k: v for k, v in (row or {}).items() if k != "id"}
            if not any(r.table == table and r.values == values for r in created):
                yield f"no rubric asks for the new {table} with all of its values"
            continue
        changed = {k: v for k, v in row.items() if before[k] != v}
        asked = {
            k: v for r in states if (r.table, r.id) == (table, identifier)
            for k, v in r.values.items()
        }  # fmt: skip
        if not changed.items() <= asked.items():
            yield f"no rubric asks for {changed} of {table} {identifier}"
    finds = [step for step in task.golden if step.tool.startswith("get_")]
    answers = [rubric for rubric in task.rubrics if rubric.kind == "answer"]
    if len(answers) < len(finds) or any(r.text not in task.answer for r in answers):
        yield "what the golden chain looks up is not asked for by an answer rubric"


def _word_faults(database: Database, tools: Mapping[str, Tool], task: Task) -> Iterator[str]:
    """Every literal must be said or yielded, and one record alone must fit what was said."""
    said = f"{task.opening} {task.withheld}"
    for text in (task.opening, task.withheld, task.description, task.answer):
        if re.search(r"[{}]", text):
            yield f"a placeholder is left in {text!r}"
    database.reset()
    known, listed = set[str](), list[list[dict[str, str]]]()
    for step in task.golden:
        for name, value in step.arguments.items():
            if value not in known and not _is_said(value, said):
                yield f"nobody says or yields {name} {value!r} of {step.tool}"
        yield from _ambiguous(database, tools, step, listed)
        result = database.call(tools[step.tool], step.arguments)
        known.update(result_values(result))
        if isinstance(result, list):
            listed.append(cast("list[dict[str, str]]", result))
    for entity, name in re.findall(r"The (\w+) is ([^.]+)\.", task.withheld):
        if not any(s.arguments.get(k) == name for s in task.golden for k in s.arguments):
            yield f"what is withheld of the {entity}, {name!r}, is not what the chain needs"


def _is_said(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def _ambiguous(
    database: Database, tools: Mapping[str, Tool], step: Step, listed: list[list[dict[str, str]]]
) -> Iterator[str]:
    """Another record of the same list, in the same state, could as well have been meant."""
    name = f"{tools[step.tool].entity}_id"
    chosen = step.arguments.get(name)
    for rows in listed:
        states = {row.get(name): row.get("state") for row in rows}
        if chosen not in states:
            continue
        for other, state in states.items():
            if other != chosen and state == states[chosen]:
                yield f"{name} {chosen} and {other} both fit what is said"


def wrong_chains(
    tools: Mapping[str, Tool], task: Task
) -> Iterator[tuple[str, tuple[Step, ...], str]]:
    """Yield chains that must not be accepted: a name, the steps, the closing message."""
    golden = task.golden
    answers = [rubric for rubric in task.rubrics if rubric.kind == "answer"]
    asks = bool(answers)
    yield "nothing at all", (), ""
    if not asks:
        yield "nothing, but says so", (), task.answer
    for end in range(1, len(golden)):
        yield f"the first {end} steps", golden[:end], ""
    if asks:
        yield "the answer without looking", (), task.answer
        yield "all steps, no answer", golden, "Done."
        yield "all steps, the answer denied", golden, f"That is not so. Not {task.answer}"
    for rubric in answers:
        without = task.answer.replace(rubric.text, "as you said")
        yield f"all steps, without saying {rubric.text}", golden, without
    for place, step in enumerate(golden):
        tool = tools[step.tool]
        if tool.kind not in WRITES:
            continue
        yield f"without {step.tool}", golden[:place] + golden[place + 1 :], task.answer
        for changed in _other_records(tool, step, task):
            name = f"{step.tool} on another record"
            yield name, (*golden[:place], changed, *golden[place + 1 :]), task.answer
        for changed in _other_values(tool, step):
            name = f"{step.tool} with another value"
            yield name, (*golden[:place], changed, *golden[place + 1 :]), task.answer
    for extra in _collateral(tools, task):
        yield f"one more: {extra.tool}", (*golden, extra), task.answer


def _other_records(tool: Tool, step: Step, task: Task) -> Iterator[Step]:
    for parameter in tool.parameters:
        if parameter.entity is None:
            continue
        for other in sorted(task.tables[parameter.entity])[:3]:
            if other != step.arguments[parameter.name]:
                arguments = {**step.arguments, parameter.name: other}
                yield Step(tool=step.tool, arguments=arguments)


def _other_values(tool: Tool, step: Step) -> Iterator[Step]:
    for parameter in tool.parameters:
        if parameter.entity is None:
            value = step.arguments[parameter.name] + "0"
            yield Step(tool=step.tool, arguments={**step.arguments, parameter.name: value})


def _collateral(tools: Mapping[str, Tool], task: Task) -> Iterator[Step]:
    """One write too much, on a record the task does not speak of."""
    spoken = {value for step in task.golden for value in step.arguments.values()}
    for name in task.tools:
        tool = tools[name]
        if tool.kind != "update":
            continue
        entity = tool.entity
        for identifier in sorted(task.tables[entity]):
            if identifier not in spoken:
                value = "987" if tool.parameters[1].is_number else "changed"
                arguments = {f"{entity}_id": identifier, tool.parameters[1].name: value}
                yield Step(tool=name, arguments=arguments)
                break
