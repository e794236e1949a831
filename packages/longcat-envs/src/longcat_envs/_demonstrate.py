"""Correct trajectories of a task, for a cold start: the golden one and alternatives to it.

An alternative looks something up once more, or makes a mistake and recovers from it. Turns that
should not be imitated (the mistakes) are marked, so that training can mask them while keeping them
in the context (report 3.1.2, turn-level loss mask). Every trajectory returned was run and passed.
"""

from __future__ import annotations

from random import Random

from ._environment import TaskEnvironment
from ._follow import Demonstration, Turn, call_turn, follow, say_turn
from ._graph import WRITES
from ._task import Step


async def demonstrate(
    environment: TaskEnvironment, *, rng: Random, share_alternative: float = 0.3
) -> Demonstration | None:
    """Run one scripted trajectory and return it if every rubric is met."""
    is_golden = rng.random() >= share_alternative
    turns = _script(environment, rng, is_golden=is_golden)
    return await follow(environment, turns, is_golden=is_golden)


def _script(environment: TaskEnvironment, rng: Random, *, is_golden: bool) -> list[Turn]:
    task = environment.task
    turns: list[Turn] = []
    if task.withheld:
        entity = task.withheld.split()[1]
        turns.append(say_turn(f"Which {entity}?", f"the {entity} is missing"))
    for step in task.golden:
        if not is_golden:
            turns += _detour(environment, step, rng)
        turns.append(call_turn(step.tool, step.arguments, step.thought))
    turns.append(say_turn(task.answer, "all is done"))
    return turns


def _detour(environment: TaskEnvironment, step: Step, rng: Random) -> list[Turn]:
    """Sometimes a mistake that the world refuses, sometimes a look at the record first."""
    task, tool = environment.task, environment.world.tools[step.tool]
    draw = rng.random()
    if draw < 0.3:
        name = rng.choice(list(step.arguments))
        wrong = {**step.arguments, name: "?"}
        if tool.kind in WRITES and not name.endswith("_id"):
            return []  # a wrong value would be written, not refused
        return [call_turn(step.tool, wrong, "", is_mistake=True)]
    look = f"get_{tool.entity}"
    identifier = f"{tool.entity}_id"
    if draw < 0.5 and tool.kind in WRITES and identifier in step.arguments and look in task.tools:
        arguments = {identifier: step.arguments[identifier]}
        return [call_turn(look, arguments, f"see the {tool.entity}")]
    return []
