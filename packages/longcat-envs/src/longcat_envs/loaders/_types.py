"""What a foreign set of tasks must offer, so that the rest of the package can use it.

A `ForeignSet` has `tasks` (plain data, `ForeignTask`); `begin(task)` gives one live world, a
`Session`, which `ForeignEnvironment` puts behind our protocol.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

from longcat_envs.tasks import Step, Talker

Schema = dict[str, Any]
"""An OpenAI function tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTask:
    """A task of somebody else's set, as it stands there."""

    id: str
    domain: str
    """Name of the set, such as `tau2:airline`."""
    system: str
    """The rules that the agent reads."""
    turns: tuple[str, ...]
    """What the person says; the first opens the talk. More than one: a turn ends with a message."""
    tools: tuple[Schema, ...]
    """Offered from the start."""
    later: tuple[tuple[int, Schema], ...] = ()
    """Tools that come with a later turn, and which."""
    golden: tuple[tuple[Step, ...], ...]
    """The calls that its authors hold to be right, turn by turn."""
    asked: tuple[tuple[Step, ...], ...] = ()
    """What the person does after each part of `golden`, asked by the agent, with own tools."""
    acts: tuple[Schema, ...] = ()
    """The person's own tools."""
    told: tuple[str, ...] = ()
    """What must stand in what the agent says."""
    hints: tuple[str, ...] = ()
    """What its authors say in words about a right run; judged by no verifier here."""
    unjudged: tuple[str, ...] = ()
    """Kinds of its own criteria that need a model's judgement and are left out."""
    raw: dict[str, Any] = field(default_factory=dict[str, Any])
    """The task as its set has it."""


class Session(Protocol):
    """One live world of one task."""

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Run one call; return the answer, and whether it is an error.

        Raises:
            ToolError: The call was refused.
        """
        ...

    def end_turn(self) -> None:
        """Take note that the agent has ended a turn."""
        ...

    def state(self) -> Any:
        """Return what the world holds now, to be compared with `==`."""
        ...

    def parts(self, said: str) -> dict[str, float]:
        """Judge as the set's own scorer does; 1 or 0 for each part."""
        ...


@runtime_checkable
class TwoSided(Session, Protocol):
    """A session whose person has tools too."""

    def act(self, name: str, arguments: dict[str, Any]) -> str:
        """Run one call of the person; what is wrong with it is an answer."""
        ...


class ForeignSet(Protocol):
    """Somebody else's tasks, with what runs them."""

    name: str
    version: str
    tasks: Sequence[ForeignTask]
    library: str
    """Documents that a tool of the agent looks things up in, in lower case."""

    def begin(self, task: ForeignTask) -> Session:
        """Return a fresh world for a task."""
        ...

    def person(self, task: ForeignTask) -> Talker:
        """Return who speaks for the person, by rules."""
        ...

    def known(self, task: ForeignTask, texts: Sequence[str]) -> set[str]:
        """Return the values, in lower case, that readers yield to who has read these texts."""
        ...

    def records(self, task: ForeignTask, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the records behind `known`, as flat dictionaries."""
        ...

    def breaches(self, task: ForeignTask) -> list[str]:
        """Return which rules, written for the agent, the golden calls break."""
        ...

    def intact(self) -> bool:
        """Whether no episode has changed what all episodes share."""
        ...


def leaves(value: Any) -> list[Any]:
    """Return all strings and numbers in a value, keys of dictionaries left out."""
    if isinstance(value, dict):
        inside = list(cast("dict[str, Any]", value).values())
    elif isinstance(value, list | tuple):
        inside = list(cast("Sequence[Any]", value))
    else:
        return [] if value is None or isinstance(value, bool) else [value]
    return [leaf for one in inside for leaf in leaves(one)]


def inner(step: Step) -> Step:
    """Return the call that a call hands on, such as `call(tool_name="a", arguments="{...}")`."""
    names = [value for key, value in step.arguments.items() if key.endswith("tool_name")]
    if len(names) != 1 or not isinstance(names[0], str):
        return step
    text = step.arguments.get("arguments", "{}")
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return step
    return (
        Step(tool=names[0], arguments=cast("dict[str, Any]", found))
        if isinstance(found, dict)
        else step
    )
