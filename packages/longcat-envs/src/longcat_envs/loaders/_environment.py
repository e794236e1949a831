"""A foreign task behind the protocol of `longcat_envs.Environment`.

What is wrong with a call is an answer; what is wrong with the world is `Invalid`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from longcat_envs._database import ToolError
from longcat_envs._environment import Message, Observation, ToolResult, parse_call
from longcat_envs._person import spoken
from longcat_envs._task import CLOSED, Invalid, Reward
from longcat_envs._thread import in_thread
from longcat_envs.tasks import Talker

from ._types import ForeignSet, ForeignTask, Session

MAX_RESULT = 200_000
"""Characters of one answer; what is longer is cut."""


class Turns:
    """A person who says one prepared line after another, whatever is answered."""

    was_asked = False

    def __init__(self, lines: tuple[str, ...]) -> None:
        self._rest = list(lines)

    def answer(self, text: str) -> str | None:
        """Return the next line; `None` after the last."""
        return self._rest.pop(0) if self._rest else None


class ForeignEnvironment:
    """One task of a foreign set, one world, one person.

    Args:
        source: The task's set.
        task: The task.
        person: Who speaks for the person; by default one who follows rules.
    """

    def __init__(
        self,
        source: ForeignSet,
        task: ForeignTask,
        person: Callable[[ForeignTask], Talker] | None = None,
    ) -> None:
        if task.domain != source.name:
            raise ValueError(f"task {task.id!r} must be of {source.name!r}, is of {task.domain!r}")
        self.source, self.task = source, task
        self._has_model = person is not None
        self._make_person = person or source.person
        self._session: Session | None = None
        self._said: list[str] = []
        self._fault, self._is_over, self._turn = "", False, 0

    async def reset(self) -> Observation:
        """Begin the episode anew; return the rules, the opening and the tools."""
        self.start()
        return Observation(
            messages=[
                {"role": "system", "content": self.task.system},
                {"role": "user", "content": self.task.turns[0]},
            ],
            tools=[dict(schema) for schema in self.task.tools],
        )

    def start(self) -> None:
        """Begin the episode anew."""
        self._fault, self._is_over, self._said, self._turn = "", False, [], 0
        self._names = {schema["function"]["name"] for schema in self.task.tools}
        try:
            self._session = self.source.begin(self.task)
            self._person = self._make_person(self.task)
        except Exception as error:
            self._fault, self._is_over = f"{type(error).__name__}: {error}", True

    @property
    def session(self) -> Session:
        """The live world of the episode under way."""
        assert self._session is not None, "reset() comes first"
        return self._session

    async def call(self, tool_call: Mapping[str, Any]) -> ToolResult:
        """Run one call; whatever is wrong with it is an answer, never an exception."""
        return self.call_now(tool_call)

    def call_now(self, tool_call: Any) -> ToolResult:
        """Run one call without waiting."""
        try:
            if self._session is None or self._is_over:
                raise ToolError("the conversation is over")
            name, arguments = parse_call(tool_call)
            if name not in self._names:
                raise ToolError(f"there is no tool {name[:80]!r}")
            text, is_error = self._session.call(name, arguments)
        except ToolError as error:
            return ToolResult(_plain(json.dumps({"error": str(error)}, ensure_ascii=False)), True)
        except Exception as error:  # the world's own fault: the episode is invalid, not lost
            self._fault = self._fault or f"{type(error).__name__}: {error}"
            return ToolResult('{"error":"the system is out of order"}', is_error=True)
        return ToolResult(_plain(text), is_error)

    async def reply(self, message: Message) -> Message | None:
        """Answer as the person; `None` once the person has ended the talk."""
        if not self._has_model:
            answer = self.hear(spoken(message))
        else:
            try:
                answer = await in_thread(lambda: self.hear(spoken(message)))
            except Exception as error:
                self._fault, self._is_over, answer = f"the person: {error}", True, None
        return None if answer is None else {"role": "user", "content": answer}

    def hear(self, text: str) -> str | None:
        """Return what the person answers to a text, without waiting."""
        if self._is_over or self._session is None:
            return None
        self._said.append(text)
        try:
            self._session.end_turn()
        except Exception as error:
            self._fault, self._is_over = f"{type(error).__name__}: {error}", True
            return None
        answer = self._person.answer(text)
        self._turn += 1
        self._is_over = answer is None
        self._names |= {s["function"]["name"] for turn, s in self.task.later if turn == self._turn}
        return answer

    async def score(self) -> Reward | Invalid:
        """Judge as the set's own scorer does."""
        return self.score_now()

    def score_now(self) -> Reward | Invalid:
        """Judge without waiting."""
        if self._fault:
            return Invalid(self._fault)
        if self._session is None:
            return Invalid("the episode was not begun: reset was not called")
        try:
            parts = {CLOSED: float(self._is_over), **self._session.parts("\n".join(self._said))}
        except Exception as error:
            return Invalid(f"{type(error).__name__}: {error}")
        return Reward(float(all(parts.values())), parts)

    async def close(self) -> None:
        """Free the world; `reset` builds it anew."""
        self._session = None


def _plain(text: str) -> str:
    return text[:MAX_RESULT].encode("utf-8", "replace").decode("utf-8")
