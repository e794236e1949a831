"""Trajectories of scripted turns, kept if they earn the reward; both forms demonstrate so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._loop import run_episode
from ._protocol import Environment, Message


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One verified trajectory."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    imitate: list[bool]
    """One per message: whether it is to be learned (assistant turns that are not mistakes)."""
    is_golden: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What a scripted agent says or calls."""

    message: Message
    is_mistake: bool = False


def call_turn(
    tool: str, arguments: Mapping[str, Any], thought: str, *, is_mistake: bool = False
) -> Turn:
    """Return a turn of one call."""
    function = {"name": tool, "arguments": json.dumps(dict(arguments), ensure_ascii=False)}
    message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": thought,
        "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
    }
    return Turn(message, is_mistake)


def say_turn(content: str, thought: str) -> Turn:
    """Return a turn that says something."""
    return Turn({"role": "assistant", "content": content, "reasoning_content": thought})


async def follow(
    environment: Environment, turns: Sequence[Turn], *, is_golden: bool
) -> Demonstration | None:
    """Play turns to the end; return the trajectory if all of the reward was earned."""
    episode = await run_episode(environment, _Script(turns), max_turns=len(turns))
    await environment.close()
    if episode.reward.total != 1 or episode.status != "done":
        return None
    mistakes = iter(turn.is_mistake for turn in turns)
    imitate = [
        message["role"] == "assistant" and not next(mistakes) for message in episode.messages
    ]
    return Demonstration(episode.messages, episode.tools, imitate, is_golden)


class _Script:
    """A policy that says what it was told to say."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = list(turns)
        self._place = 0

    async def chat(self, messages: list[Message], *, tools: list[dict[str, Any]]) -> Message | None:
        """Return the next scripted message."""
        if self._place >= len(self._turns):
            return None
        self._place += 1
        return self._turns[self._place - 1].message
