"""Worlds and tasks of both forms, read from files: no model is needed for these, and so no torch.

A domain whose name ends with `.world` has a past: `bank.world` is a shipped one, or a file. Others
are tables that are filled for each task: a shipped name, or a TOML file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from longcat_envs import Demonstration, Environment, Task, TaskEnvironment, World
from longcat_envs import demonstrate as show
from longcat_envs.history import Setting, load_setting
from longcat_envs.tasks import WorldEnvironment, WorldTask, brief_prompt
from longcat_envs.teaching import demonstrate as show_in_past

AnyTask = Task | WorldTask
AnyWorld = World | Setting
PAST = ".world"


def has_past(domain: str) -> bool:
    """Whether a domain is a world with a past."""
    return domain.endswith(PAST)


def load_world(domain: str) -> AnyWorld:
    """Load a shipped domain, or a file.

    Raises:
        DomainError: There is none of this name, or its file breaks a rule.
    """
    if not has_past(domain):
        return World.load(domain)
    return load_setting(domain if Path(domain).is_file() else domain.removesuffix(PAST))


def name_of(world: AnyWorld) -> str:
    """The domain's own name."""
    return world.spec.name if isinstance(world, Setting) else world.domain.name


def load_worlds(domains: Iterable[str]) -> dict[str, AnyWorld]:
    """Load worlds by their domain's own name."""
    return {name_of(world): world for world in map(load_world, domains)}


def read_task(line: str) -> AnyTask:
    """Read a task of either form."""
    return WorldTask.from_json(line) if "past" in json.loads(line) else Task.from_json(line)


def read_tasks(path: Path) -> list[AnyTask]:
    """Read a file of tasks."""
    return [read_task(line) for line in path.read_text("utf-8").splitlines()]


def environment_of(world: AnyWorld, task: AnyTask) -> TaskEnvironment | WorldEnvironment:
    """The environment of a task; the rules of a world are learned, not told: models are small."""
    if isinstance(world, Setting):
        assert isinstance(task, WorldTask), "a task of a world with a past"
        setting = dataclasses.replace(world, id_digits=task.id_digits)
        return WorldEnvironment(setting, task, prompt=brief_prompt)
    assert isinstance(task, Task), "a task of a world of tables"
    return TaskEnvironment(world, task)


async def demonstrate(
    environment: Environment, *, rng: Random, share_alternative: float
) -> Demonstration | None:
    """A verified trajectory of a task of either form."""
    if isinstance(environment, WorldEnvironment):
        return await show_in_past(environment, rng=rng, share_alternative=share_alternative)
    assert isinstance(environment, TaskEnvironment)
    return await show(environment, rng=rng, share_alternative=share_alternative)


def schemas_of(world: AnyWorld, task: AnyTask) -> list[dict[str, Any]]:
    """What the agent is told of the task's tools."""
    if isinstance(world, World):
        return [world.schemas[name] for name in task.tools]
    environment = environment_of(world, task)
    assert isinstance(environment, WorldEnvironment)
    return environment.tools
