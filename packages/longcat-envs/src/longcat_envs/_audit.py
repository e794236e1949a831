"""Try to fool the verifier of a task; a task is admitted only if that fails.

- The golden chain must meet every rubric, and must be executable by the contracts alone.
- Doing nothing, stopping early, leaving out any write, acting on another record, or doing one
  thing too much must each fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ._database import Database, ToolError
from ._graph import WRITES, ToolGraph
from ._spec import Domain
from ._task import Reward, Step, Task, judge
from ._tools import Tool


def run_chain(
    database: Database, tools: Mapping[str, Tool], task: Task, steps: Sequence[Step], answer: str
) -> tuple[Reward, int]:
    """Run calls from the initial state; return the judgement and how many calls were refused."""
    database.reset()
    refused = 0
    for step in steps:
        try:
            database.call(tools[step.tool], step.arguments)
        except ToolError:
            refused += 1
    return judge(task, database.tables(), answer), refused


def audit(domain: Domain, tools: Mapping[str, Tool], task: Task) -> list[str]:
    """Return what is wrong with a task's verifier; an empty list admits the task."""
    faults: list[str] = []
    present = {name: tools[name] for name in task.tools}
    missing = [step.tool for step in task.golden if step.tool not in present]
    if missing:
        return [f"the golden chain uses {missing}, which the environment lacks"]
    if not ToolGraph(present).is_executable(step.tool for step in task.golden):
        faults.append("the golden chain is not executable by its contracts")
    database = Database(domain, task.tables)
    try:
        reward, refused = run_chain(database, tools, task, task.golden, task.answer)
        if reward.total != 1 or refused:
            faults.append(f"the golden chain fails: {dict(reward.parts)}, {refused} calls refused")
        for name, steps, answer in wrong_chains(tools, task):
            if run_chain(database, tools, task, steps, answer)[0].total == 1:
                faults.append(f"a wrong chain passes: {name}")
    finally:
        database.close()
    return faults


def wrong_chains(
    tools: Mapping[str, Tool], task: Task
) -> Iterator[tuple[str, tuple[Step, ...], str]]:
    """Yield chains that must not be accepted: a name, the steps, the closing message."""
    golden = task.golden
    asks = any(rubric.kind == "answer" for rubric in task.rubrics)
    yield "nothing at all", (), ""
    if not asks:
        yield "nothing, but says so", (), task.answer
    for end in range(1, len(golden)):
        yield f"the first {end} steps", golden[:end], ""
    if asks:
        yield "all steps, no answer", golden, "Done."
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
                assert tool.column is not None
                yield Step(
                    tool=name, arguments={f"{entity}_id": identifier, tool.column: "changed"}
                )
                break
