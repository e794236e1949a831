"""Where an agent acts: one task, one database, one scripted person.

The life of an episode: `reset`, then any number of `call` and `reply`, then `score`, then `close`.
All are asynchronous, so that an environment may live behind a socket as well as in this process.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ._audit import result_values
from ._database import Database
from ._frame import Frame
from ._person import Person
from ._protocol import Observation, ToolResult, compact
from ._spec import Domain, load_domain
from ._task import Reward, Task, check_rubrics, judge, seen_in_time
from ._tools import Tool, derive_tools


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


class TaskEnvironment(Frame):
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
        super().__init__()

    def _wipe(self) -> None:
        super()._wipe()
        topics = tuple(self.task.withheld.split()[1:2])
        self._person = Person(self.task.opening, self.task.withheld, topics=topics)
        self._seen: dict[str, int] = {}

    async def reset(self) -> Observation:
        """Build or restore the database; return the system prompt, the opening and the tools."""
        if self._database is None:
            self._database = Database(self.world.domain, self.task.tables)
        else:
            self._database.reset()
        self._wipe()
        return Observation(
            messages=[
                {"role": "system", "content": self.world.system_prompt()},
                {"role": "user", "content": self.task.opening},
            ],
            tools=[self.world.schemas[name] for name in self.task.tools],
        )

    def _has_world(self) -> bool:
        return self._database is not None

    def _offered(self) -> Collection[str]:
        return self.task.tools

    def _run(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        assert self._database is not None, "the frame looks"
        result = self._database.call(self.world.tools[name], arguments)
        for value in result_values(result):
            self._seen.setdefault(value, len(self._said))
        return ToolResult(compact(result))

    def _judge(self) -> Reward:
        assert self._database is not None, "the frame looks"
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
