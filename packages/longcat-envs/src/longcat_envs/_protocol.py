"""What an agent loop and an environment say to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ._database import ToolError
from ._task import Invalid, Reward

Message = dict[str, Any]
"""An OpenAI chat-completions message."""

MAX_ARGUMENTS = 10_000
"""Characters of a call's arguments."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent sees first."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    """OpenAI function tools."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer to one call."""

    content: str
    is_error: bool = False
    is_noise: bool = False
    """Set by a noise wrapper when this is not what the environment answered."""


class Environment(Protocol):
    """What an agent loop drives, and what a noise wrapper wraps."""

    async def reset(self) -> Observation:
        """Begin the episode anew."""
        ...

    async def call(self, tool_call: Mapping[str, Any]) -> ToolResult:
        """Answer one OpenAI tool call."""
        ...

    async def reply(self, message: Message) -> Message | None:
        """Answer an assistant message without calls; `None` ends the episode."""
        ...

    async def score(self) -> Reward | Invalid:
        """Judge the episode so far; `Invalid` if the world failed rather than the agent."""
        ...

    async def close(self) -> None:
        """Free what the episode holds."""
        ...


class Talker(Protocol):
    """Who speaks for the person of a task."""

    was_asked: bool
    """Whether what was withheld has been said."""

    def answer(self, text: str) -> str | None:
        """Return what the person says to a text; `None` ends the talk."""
        ...


def parse_call(tool_call: Any) -> tuple[str, dict[str, Any]]:
    """Read the name and the arguments out of an OpenAI tool call.

    Raises:
        ToolError: The call is not of that form.
    """
    function: Any = _field(tool_call, "function")
    name, arguments = _field(function, "name"), _field(function, "arguments")
    if not isinstance(name, str) or not name:
        raise ToolError("a call must have a function with a name")
    if isinstance(arguments, str) and arguments.strip():
        if len(arguments) > MAX_ARGUMENTS:
            raise ToolError(f"arguments must have at most {MAX_ARGUMENTS} characters")
        try:
            arguments = json.loads(arguments, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ToolError("arguments must be JSON") from None
    elif arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict):
        raise ToolError("arguments must be an object")
    return name, cast("dict[str, Any]", arguments)


def _field(value: Any, name: str) -> Any:
    return cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def compact(value: Any) -> str:
    """Return a value as JSON without spaces, whatever its strings hold."""
    return encodable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def encodable(text: str) -> str:
    """Return a text with half surrogate pairs replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
