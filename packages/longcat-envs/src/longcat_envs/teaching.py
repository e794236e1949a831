"""Correct trajectories of a task in a world with a past, for a cold start.

See `longcat_envs.demonstrate`, which is this for the first form: an alternative looks at a record
before it is changed, or makes a mistake, which is not to be imitated, and recovers from it.
"""

from __future__ import annotations

from random import Random

from ._follow import Demonstration, Turn, call_turn, follow, say_turn
from .attacks import Say, golden_acts
from .attacks._script import asking_acts
from .tasks import Step, WorldEnvironment

SHARE_MISTAKE, SHARE_LOOK = 0.3, 0.2
"""Of the calls of an alternative."""


async def demonstrate(
    environment: WorldEnvironment, *, rng: Random, share_alternative: float = 0.3
) -> Demonstration | None:
    """Run one scripted trajectory and return it if it earns the reward."""
    is_golden = rng.random() >= share_alternative
    turns: list[Turn] = []
    *acts, last = golden_acts(environment.task)
    for act in acts:
        if isinstance(act, Say):
            is_asked = act in asking_acts(environment.task)
            thought = "something must be asked" if is_asked else "there may be more to do"
            turns.append(say_turn(act.text, thought))
            continue
        if not is_golden:
            turns += _detour(environment, act, rng)
        turns.append(call_turn(act.tool, act.arguments, act.thought))
    assert isinstance(last, Say), "a golden script ends with what is told"
    turns.append(say_turn(last.text, "all is done"))
    return await follow(environment, turns, is_golden=is_golden)


def _detour(environment: WorldEnvironment, step: Step, rng: Random) -> list[Turn]:
    """Sometimes a call that is refused or finds nothing, sometimes a look at the record first."""
    tool = environment.setting.machine.tools.get(step.tool)
    if tool is None:  # a wish is refused: there is no such tool of the world
        return []
    draw = rng.random()
    names = [n for n in step.arguments if n.endswith("_id") or not tool.is_writer]
    if draw < SHARE_MISTAKE and names:
        wrong = {**step.arguments, rng.choice(names): "?"}
        return [call_turn(step.tool, wrong, "", is_mistake=True)]
    look, identifier = f"get_{tool.of}", f"{tool.of}_id"
    is_look = SHARE_MISTAKE <= draw < SHARE_MISTAKE + SHARE_LOOK and tool.is_writer
    if is_look and identifier in step.arguments and look in environment.task.tools:
        arguments = {identifier: step.arguments[identifier]}
        return [call_turn(look, arguments, f"see the {tool.of.replace('_', ' ')}")]
    return []
