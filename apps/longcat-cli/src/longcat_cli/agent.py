"""Models, worlds and policies, put together from folders: what several stages need."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_dora import Worker
from longcat_envs import Environment, Episode, ToolResult, run_episode
from longcat_moe import ChatFormat, Engine, LongcatForCausalLM, load_tokenizer

from .noise import in_noise
from .worlds import AnyTask, AnyWorld

DECLARE = "brief"
"""Small models are trained on the tools themselves; their names are reminder enough."""


def make_environment(
    world: AnyWorld, task: AnyTask, *, level: float, episode: str, max_turns: int | None = None
) -> Environment:
    """An environment, in noise that a patient agent survives if `level` is above 0."""
    drawn = asyncio.run(
        in_noise(world, task, level=level, episode=episode, max_turns=max_turns)
    )  # fmt: skip
    return drawn.environment


@dataclass(frozen=True, slots=True)
class Attempt:
    """A policy's try at a task."""

    episode: Episode
    failed_turns: list[int]
    """Which of the assistant's messages, counted from 0, hold a call that failed."""
    level: float = 0.0
    """Of the noise that was in force: 0 if none could be certified."""
    num_refused: int = 0
    """Draws of noise that were refused before."""


class _Watched:
    """An environment whose tool results are noted as they pass."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.has_failed: list[bool] = []
        self.reset, self.reply = environment.reset, environment.reply
        self.score, self.close = environment.score, environment.close

    async def call(self, tool_call: Mapping[str, Any]) -> ToolResult:
        result = await self._environment.call(tool_call)
        self.has_failed.append(result.is_error)
        return result


async def act(
    worlds: dict[str, AnyWorld], task: AnyTask, policy: Any, *, level: float, episode: str,
    max_turns: int,
) -> Attempt:  # fmt: skip
    """Let a policy try a task, in noise that leaves it within reach in `max_turns`."""
    drawn = await in_noise(
        worlds[task.domain], task, level=level, episode=episode, max_turns=max_turns
    )
    environment = _Watched(drawn.environment)
    try:
        done = await run_episode(environment, policy, max_turns=max_turns)
    finally:
        await environment.close()
    failed = _failed_turns(done.messages, environment.has_failed)
    return Attempt(done, failed, drawn.level, drawn.num_refused)


def _failed_turns(messages: Sequence[Mapping[str, Any]], has_failed: list[bool]) -> list[int]:
    """Tool messages stand in the order of their calls, behind the message that made them."""
    results = iter(has_failed)
    failed: list[int] = []
    turn = -1
    for message in messages:
        if message["role"] == "assistant":
            turn += 1
        elif message["role"] == "tool" and next(results) and turn not in failed:
            failed.append(turn)
    return failed


def load_agent(
    folder: Path, *, num_slots: int, max_length: int, max_tokens: int, temperature: float, seed: int
) -> Worker:
    """A worker without a rollout: the model of a folder as version 0."""
    model = LongcatForCausalLM.from_pretrained(folder)
    engine = Engine(model.config, num_slots=num_slots, max_length=max_length, seed=seed)
    engine.add_model(0, model)
    return Worker(
        engine=engine,
        renderer=ChatFormat(load_tokenizer(folder), declare=DECLARE),
        rollout=_no_rollout,
        max_tokens=max_tokens,
        temperature=temperature,
    )


async def _no_rollout(payload: Any, policy: Any) -> float:
    raise AssertionError("this worker is driven by hand")


def transcript(messages: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A conversation as `who` and `text` lines that a person can read."""
    lines: list[dict[str, str]] = []
    for message in messages:
        role = message["role"]
        if role == "assistant" and message.get("reasoning_content"):
            lines.append({"who": "thought", "text": message["reasoning_content"]})
        for call in message.get("tool_calls") or ():
            function = call["function"]
            lines.append({"who": "call", "text": f"{function['name']} {function['arguments']}"})
        if message.get("content"):
            lines.append({"who": role, "text": message["content"]})
    return lines
