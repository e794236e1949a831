"""Models, worlds and policies, put together from folders: what several stages need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from longcat_dora import Worker
from longcat_envs import Environment, Episode, Task, TaskEnvironment, World, run_episode
from longcat_moe import ChatFormat, Engine, LongcatForCausalLM, load_tokenizer
from longcat_noise import NoiseConfig, NoisyEnvironment

DECLARE = "brief"
"""Small models are trained on the tools themselves; their names are reminder enough."""


def read_tasks(path: Path) -> list[Task]:
    """Read a file of tasks."""
    return [Task.from_json(line) for line in path.read_text("utf-8").splitlines()]


def protected_literals(task: Task) -> list[str]:
    """Names, ids and values in a request that noise must spare."""
    values = [value for step in task.golden for value in step.arguments.values()]
    words = [word for value in values for word in re.findall(r"\w+", value)]
    return [*values, *words]


def make_environment(world: World, task: Task, *, level: float, episode: str) -> Environment:
    """An environment, in noise if `level` is above 0."""
    plain = TaskEnvironment(world, task)
    if level <= 0:
        return plain
    literals = protected_literals(task)
    noise = NoiseConfig(level=level)
    return NoisyEnvironment(plain, noise, episode=episode, protected=literals)


async def act(
    worlds: dict[str, World], task: Task, policy: Any, *, level: float, episode: str, max_turns: int
) -> Episode:
    """Let a policy try a task."""
    environment = make_environment(worlds[task.domain], task, level=level, episode=episode)
    try:
        return await run_episode(environment, policy, max_turns=max_turns)
    finally:
        await environment.close()


def load_worlds(domains: Iterable[str]) -> dict[str, World]:
    """Load worlds by their domain's own name."""
    worlds = [World.load(domain) for domain in domains]
    return {world.domain.name: world for world in worlds}


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
