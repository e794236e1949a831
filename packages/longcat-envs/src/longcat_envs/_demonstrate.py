"""Correct trajectories of a task, for a cold start: the golden one and alternatives to it.

An alternative looks something up once more, or makes a mistake and recovers from it. Turns that
should not be imitated (the mistakes) are marked, so that training can mask them while keeping them
in the context (report 3.1.2, turn-level loss mask). Every trajectory returned was run and passed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ._environment import TaskEnvironment
from ._graph import WRITES
from ._loop import run_episode
from ._protocol import Message
from ._task import Step


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One verified trajectory."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    imitate: list[bool]
    """One per message: whether it is to be learned (assistant turns that are not mistakes)."""
    is_golden: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    message: Message
    is_mistake: bool = False


class _Script:
    """A policy that says what it was told to say."""

    def __init__(self, turns: Sequence[_Turn]) -> None:
        self._turns = list(turns)
        self._place = 0

    async def chat(self, messages: list[Message], *, tools: list[dict[str, Any]]) -> Message | None:
        """Return the next scripted message."""
        if self._place >= len(self._turns):
            return None
        self._place += 1
        return self._turns[self._place - 1].message


async def demonstrate(
    environment: TaskEnvironment, *, rng: Random, share_alternative: float = 0.3
) -> Demonstration | None:
    """Run one scripted trajectory and return it if every rubric is met."""
    is_golden = rng.random() >= share_alternative
    turns = _script(environment, rng, is_golden=is_golden)
    episode = await run_episode(environment, _Script(turns), max_turns=len(turns))
    await environment.close()
    if episode.reward.total != 1 or episode.status != "done":
        return None
    mistakes = iter(turn.is_mistake for turn in turns)
    imitate = [
        message["role"] == "assistant" and not next(mistakes) for message in episode.messages
    ]
    return Demonstration(episode.messages, episode.tools, imitate, is_golden)


def _script(environment: TaskEnvironment, rng: Random, *, is_golden: bool) -> list[_Turn]:
    task = environment.task
    turns: list[_Turn] = []
    if task.withheld:
        entity = task.withheld.split()[1]
        turns.append(_Turn(_say(f"Which {entity}?", f"the {entity} is missing")))
    for step in task.golden:
        if not is_golden:
            turns += _detour(environment, step, rng)
        turns.append(_Turn(_call(step)))
    turns.append(_Turn(_say(task.answer, "all is done")))
    return turns


def _detour(environment: TaskEnvironment, step: Step, rng: Random) -> list[_Turn]:
    """Sometimes a mistake that the world refuses, sometimes a look at the record first."""
    task, tool = environment.task, environment.world.tools[step.tool]
    draw = rng.random()
    if draw < 0.3:
        name = rng.choice(list(step.arguments))
        wrong = {**step.arguments, name: "?"}
        if tool.kind in WRITES and not name.endswith("_id"):
            return []  # a wrong value would be written, not refused
        return [_Turn(_call(Step(tool=step.tool, arguments=wrong)), is_mistake=True)]
    look = f"get_{tool.entity}"
    identifier = f"{tool.entity}_id"
    if draw < 0.5 and tool.kind in WRITES and identifier in step.arguments and look in task.tools:
        arguments = {identifier: step.arguments[identifier]}
        return [
            _Turn(_call(Step(tool=look, arguments=arguments, thought=f"see the {tool.entity}")))
        ]
    return []


def _call(step: Step) -> Message:
    function = {"name": step.tool, "arguments": json.dumps(step.arguments, ensure_ascii=False)}
    return {
        "role": "assistant",
        "content": "",
        "reasoning_content": step.thought,
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }


def _say(content: str, thought: str) -> Message:
    return {"role": "assistant", "content": content, "reasoning_content": thought}
