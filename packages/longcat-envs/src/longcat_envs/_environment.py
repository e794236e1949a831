"""Where an agent acts: one task, one database, one scripted person.

The life of an episode: `reset`, then any number of `call` and `reply`, then `score`, then `close`.
All are asynchronous, so that an environment may live behind a socket as well as in this process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ._database import Database, ToolError
from ._spec import Domain, load_domain
from ._task import Reward, Task, judge
from ._tools import Tool, derive_tools

Message = dict[str, Any]
"""An OpenAI chat-completions message."""


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

    async def score(self) -> Reward:
        """Judge the episode so far."""
        ...

    async def close(self) -> None:
        """Free what the episode holds."""
        ...


class World:
    """A domain made ready: its tools are derived once and shared by all its environments."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.tools: dict[str, Tool] = derive_tools(domain)
        self.schemas = {name: tool.schema() for name, tool in self.tools.items()}

    @classmethod
    def load(cls, name_or_path: str) -> World:
        """Read a domain by name or path."""
        return cls(load_domain(name_or_path))

    def system_prompt(self) -> str:
        """Who the agent is here."""
        return f"You work at {self.domain.title}."


class TaskEnvironment:
    """The environment of one task.

    Example:
        >>> world = World.load("library")
        >>> environment = TaskEnvironment(world, next(Grower(world.domain, seed=0)))
    """

    def __init__(self, world: World, task: Task) -> None:
        if task.domain != world.domain.name:
            raise ValueError(
                f"task {task.id!r} must be of domain {world.domain.name!r}, is of {task.domain!r}"
            )
        self.world, self.task = world, task
        self._database: Database | None = None
        self._asked = False
        self._closing: str | None = None

    async def reset(self) -> Observation:
        """Build or restore the database; return the system prompt, the opening and the tools."""
        if self._database is None:
            self._database = Database(self.world.domain, self.task.tables)
        else:
            self._database.reset()
        self._asked, self._closing = False, None
        return Observation(
            messages=[
                {"role": "system", "content": self.world.system_prompt()},
                {"role": "user", "content": self.task.opening},
            ],
            tools=[self.world.schemas[name] for name in self.task.tools],
        )

    async def call(self, tool_call: Mapping[str, Any]) -> ToolResult:
        """Run one call; whatever is wrong with it is an answer, never an exception."""
        try:
            name, arguments = _parse(tool_call)
            if name not in self.task.tools:
                raise ToolError(f"there is no tool {name}")
            result = self._open().call(self.world.tools[name], arguments)
        except ToolError as error:
            return ToolResult(_compact({"error": str(error)}), is_error=True)
        return ToolResult(_compact(result))

    async def reply(self, message: Message) -> Message | None:
        """Add what was withheld when asked for it (once); otherwise the person is done."""
        text = str(message.get("content") or "")
        if self.task.withheld and not self._asked and "?" in text:
            self._asked = True
            return {"role": "user", "content": self.task.withheld}
        self._closing = text
        return None

    async def score(self) -> Reward:
        """Judge the database and the closing message by the rubrics."""
        return judge(self.task, self._open().tables(), self._closing)

    async def close(self) -> None:
        """Free the database; `reset` builds it anew."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> Database:
        if self._database is None:
            raise RuntimeError("call reset() before anything else")
        return self._database


def _parse(tool_call: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    function = tool_call["function"]
    arguments: Any = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            raise ToolError("arguments must be JSON") from None
    if not isinstance(arguments, dict):
        raise ToolError("arguments must be an object")
    return str(function["name"]), cast("dict[str, Any]", arguments)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
