"""Noise around a task of a world, within a certificate: whoever is patient passes in time.

    task, contracts, episode, turns ──> certify ──> the environment in that very noise
                                           └─ refused: drawn again, in the end a perfect world

What is drawn is a pure function of the task, the level, the episode's name and the turns, so that
an attempt can be derived a second time from what was written about it (see `audit`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from longcat_envs import Environment, Task, World
from longcat_envs.attacks import Say, golden_acts
from longcat_envs.graph import contracts
from longcat_envs.history import Setting
from longcat_envs.tasks import WorldTask
from longcat_noise import Book, Certificate, NoiseConfig, NoiseTask, certify_async

from .worlds import AnyTask, AnyWorld, environment_of

MAX_DRAWS = 3
"""Draws of one episode before it is given a perfect world."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The environment of one attempt, and what was refused on the way to it."""

    environment: Environment
    level: float
    """Of the noise around it: what was asked for, or 0 if no draw could be certified."""
    num_refused: int


async def in_noise(
    world: AnyWorld, task: AnyTask, *, level: float, episode: str, max_turns: int | None
) -> Drawn:
    """Put a task in noise that a patient agent survives in `max_turns`; in none if `level` is 0."""
    plain = environment_of(world, task)
    if level <= 0:
        return Drawn(plain, 0.0, 0)
    draw = await _KEPT.draw(world, task, level, episode, max_turns)
    if draw.certificate is None:
        return Drawn(plain, 0.0, draw.num_refused)
    return Drawn(
        draw.certificate.wrap(plain, draw.known, draw.book), level, draw.num_refused
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Draw:
    """What was found for one episode, and for which task of which world."""

    world: AnyWorld
    task: AnyTask
    known: NoiseTask
    book: Book
    certificate: Certificate | None
    num_refused: int


class _Draws:
    """Draws of the newest episodes: the attempts of a group share theirs.

    A certificate costs three reference agents; of a group of eight, one attempt pays for all.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._newest: dict[tuple[str, str, float, int | None], _Draw] = {}

    async def draw(
        self, world: AnyWorld, task: AnyTask, level: float, episode: str, max_turns: int | None
    ) -> _Draw:
        key = task.id, episode, level, max_turns
        kept = self._newest.get(key)
        if kept is None or kept.world is not world or kept.task != task:
            kept = await _find(world, task, level, episode, max_turns)
            self._newest[key] = kept
            if len(self._newest) > self._size:
                del self._newest[next(iter(self._newest))]
        return kept


_KEPT = _Draws()


async def _find(
    world: AnyWorld, task: AnyTask, level: float, episode: str, max_turns: int | None
) -> _Draw:
    book, known, config = contracts_of(world), noise_task(task), NoiseConfig(level=level)
    for refused in range(MAX_DRAWS):
        # The first draw bears the episode's own name; the others are draws of their own.
        found = await certify_async(
            known, config, episode=f"{episode}~{refused}" if refused else episode, book=book,
            world=lambda _: environment_of(world, task), max_turns=max_turns,
        )  # fmt: skip
        if isinstance(found, Certificate):
            return _Draw(world, task, known, book, found, refused)
    return _Draw(world, task, known, book, None, MAX_DRAWS)


def contracts_of(world: AnyWorld) -> Book:
    """Return what the tools of a world read and write, column by column."""
    if isinstance(world, Setting):
        schemas = world.machine.schemas
        lines = map(json.loads, contracts(world.machine.tools))
        return Book.of(
            {**line, "parameters": schemas[line["tool"]]["function"]["parameters"]}
            for line in lines
        )
    return Book.of(
        {
            "name": tool.name,
            "reads": sorted(_columns(world, tool.reads)),
            "writes": sorted(_columns(world, tool.writes)),
            "parameters": tool.schema()["function"]["parameters"],
        }
        for tool in world.tools.values()
    )


def _columns(world: World, names: Iterable[str]) -> Iterator[str]:
    """Spell out `table.*`."""
    for name in names:
        table, _, column = name.partition(".")
        if column != "*":
            yield name
            continue
        entity = world.domain.entities[table]
        parents = (f"{parent}_id" for parent in entity.parents)
        yield from (f"{table}.{field}" for field in (*entity.columns, *parents, "state"))


def noise_task(task: AnyTask) -> NoiseTask:
    """Return a task as the certificate knows it: the question, the golden calls, the answer."""
    chain = _chain_in_past(task) if isinstance(task, WorldTask) else _chain(task)
    return NoiseTask.read(
        {"id": task.id, "opening": task.opening, "chain": chain,
         "protected": protected_literals(task)}
    )  # fmt: skip


def _chain(task: Task) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    if task.withheld:
        chain.append({"say": f"Which {task.withheld.split()[1]}?"})
    chain += [{"tool": step.tool, "arguments": step.arguments} for step in task.golden]
    return [*chain, {"say": task.answer}]


def _chain_in_past(task: WorldTask) -> list[dict[str, Any]]:
    return [
        {"say": act.text} if isinstance(act, Say) else
        {"tool": act.tool, "arguments": act.arguments}
        for act in golden_acts(task)
    ]  # fmt: skip


def protected_literals(task: AnyTask) -> list[str]:
    """Names, ids and values in a request that noise must spare."""
    values = [str(value) for step in task.golden for value in step.arguments.values()]
    words = [word for value in values for word in re.findall(r"\w+", value)]
    return [*values, *words]
