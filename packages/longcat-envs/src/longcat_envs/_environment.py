"""Where an agent acts: one task, one database, one scripted person.

The life of an episode: `reset`, then any number of `call` and `reply`, then `score`, then `close`.
All are asynchronous, so that an environment may live behind a socket as well as in this process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ._audit import result_values
from ._database import Database, ToolError
from ._person import Person, spoken
from ._spec import Domain, load_domain
from ._task import Invalid, Reward, Task, check_rubrics, judge, seen_in_time
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

    async def score(self) -> Reward | Invalid:
        """Judge the episode so far; `Invalid` if the world failed rather than the agent."""
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
        check_rubrics(task)
        self.world, self.task = world, task
        self._database: Database | None = None
        self._begin()

    def _begin(self) -> None:
        topics = tuple(self.task.withheld.split()[1:2])
        self._person = Person(self.task.opening, self.task.withheld, topics=topics)
        self._said: list[str] = []
        self._seen: dict[str, int] = {}
        self._is_over = False
        self._fault = ""

    async def reset(self) -> Observation:
        """Build or restore the database; return the system prompt, the opening and the tools."""
        if self._database is None:
            self._database = Database(self.world.domain, self.task.tables)
        else:
            self._database.reset()
        self._begin()
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
            if self._database is None or self._is_over:
                raise ToolError("the conversation is over")
            name, arguments = parse_call(tool_call)
            if name not in self.task.tools:
                raise ToolError(f"there is no tool {name[:80]!r}")
            result = self._database.call(self.world.tools[name], arguments)
        except ToolError as error:
            return ToolResult(_compact({"error": str(error)}), is_error=True)
        except Exception as error:  # the world's own fault: the episode is invalid, not lost
            self._fault = self._fault or f"{type(error).__name__}: {error}"
            return ToolResult(_compact({"error": "the system is out of order"}), is_error=True)
        for value in result_values(result):
            self._seen.setdefault(value, len(self._said))
        return ToolResult(_compact(result))

    async def reply(self, message: Message) -> Message | None:
        """Answer as the person; `None` once the person has ended the talk."""
        if self._is_over:
            return None
        text = spoken(message)
        self._said.append(text)
        answer = self._person.answer(text)
        if answer is None:
            self._is_over = True
            return None
        return {"role": "user", "content": answer}

    async def score(self) -> Reward | Invalid:
        """Judge the database and what was said by the rubrics."""
        if self._database is None:
            return Invalid("the episode was not begun: reset was not called")
        if self._fault:
            return Invalid(self._fault)
        said = "\n".join(self._said) if self._is_over else None
        return judge(
            self.task, self._database.tables(), said,
            seen=seen_in_time(self.task, self._said, self._seen), was_asked=self._person.was_asked,
        )  # fmt: skip

    async def close(self) -> None:
        """Free the database; `reset` builds it anew."""
        if self._database is not None:
            self._database.close()
            self._database = None


MAX_ARGUMENTS = 10_000
"""Characters of a call's arguments."""


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


def _compact(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode("utf-8")
