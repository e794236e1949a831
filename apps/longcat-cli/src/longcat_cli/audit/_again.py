"""An attempt once more: its messages are said again in the same world, under the same noise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from longcat_dora import Trajectory
from longcat_moe import ChatFormat

from longcat_cli.agent import Attempt, act
from longcat_cli.stages._successes import sampled_runs
from longcat_cli.worlds import AnyTask, AnyWorld, schemas_of


class _Script:
    """A policy that says what it was given to say."""

    def __init__(self, messages: Sequence[dict[str, Any]]) -> None:
        self._messages = iter(messages)

    async def chat(self, messages: Any, *, tools: Any) -> dict[str, Any] | None:
        return next(self._messages, None)


def said_again(
    worlds: dict[str, AnyWorld],
    task: AnyTask,
    messages: Sequence[dict[str, Any]],
    *,
    level: float = 0.0,
    episode: str = "again",
    max_turns: int = 64,
) -> Attempt:
    """Let the assistant's messages meet the world again."""
    script = _Script(messages)
    return asyncio.run(act(worlds, task, script, level=level, episode=episode, max_turns=max_turns))


def attempt_of(
    trajectory: Trajectory, task: AnyTask, worlds: dict[str, AnyWorld], chat: ChatFormat,
    max_turns: int,
) -> Attempt:  # fmt: skip
    """Derive an attempt from the tokens that were sampled, and from nothing else."""
    tools = schemas_of(worlds[task.domain], task)
    messages = [
        chat.parse(segment.token_ids[start:stop], tools)
        for segment in trajectory.segments
        for start, stop in sampled_runs(list(segment.loss_mask))
    ]
    return said_again(
        worlds, task, messages, level=trajectory.info["level"],
        episode=trajectory.info["episode"], max_turns=max_turns,
    )  # fmt: skip
