"""What every environment does around its world.

What is wrong with a call is an answer; what is wrong with the world, or with a person who is a
model, makes the episode `Invalid`, whatever the agent did. After the end nothing is answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from ._database import ToolError
from ._person import spoken
from ._protocol import Message, Observation, Talker, ToolResult, compact, parse_call
from ._task import Invalid, Reward
from ._thread import in_thread


class Frame(ABC):
    """One episode at a time: `reset`, any number of `call` and `reply`, `score`, `close`.

    A kind of environment brings its world, its tools and its judge; with `person_waits` the person
    may take time, and is asked in a thread.
    """

    _person: Talker

    def __init__(self, *, person_waits: bool = False) -> None:
        self._person_waits = person_waits
        self._wipe()

    def _wipe(self) -> None:
        """Forget the last episode."""
        self._said: list[str] = []
        self._is_over, self._fault = False, ""

    def _fail(self, fault: str) -> None:
        """The world cannot go on, by its own fault; the first one is kept."""
        self._fault = self._fault or fault

    # -- what a kind of environment brings ---------------------------------------------------

    @abstractmethod
    async def reset(self) -> Observation:
        """Begin the episode anew; return the rules, the opening and the tools."""

    @abstractmethod
    async def close(self) -> None:
        """Free the world; `reset` builds it anew."""

    @abstractmethod
    def _has_world(self) -> bool:
        """Whether an episode was begun and not closed."""

    @abstractmethod
    def _offered(self) -> Collection[str]:
        """Tools that may be called now."""

    @abstractmethod
    def _run(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Run a call of one of the tools; a `ToolError` is an answer."""

    @abstractmethod
    def _judge(self) -> Reward:
        """Judge what was done and said."""

    def _answer(self, text: str) -> str | None:
        return self._person.answer(text)

    # -- the protocol ------------------------------------------------------------------------

    async def call(self, tool_call: Mapping[str, Any]) -> ToolResult:
        """Run one call; whatever is wrong with it is an answer, never an exception."""
        return self.call_now(tool_call)

    def call_now(self, tool_call: Any) -> ToolResult:
        """Run one call without waiting: everything is in this process."""
        try:
            if self._is_over or not self._has_world():
                raise ToolError("the conversation is over")
            name, arguments = parse_call(tool_call)
            if name not in self._offered():
                raise ToolError(f"there is no tool {name[:80]!r}")
            return self._run(name, arguments)
        except ToolError as error:
            return ToolResult(compact({"error": str(error)}), is_error=True)
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            return ToolResult(compact({"error": "the system is out of order"}), is_error=True)

    async def reply(self, message: Message) -> Message | None:
        """Answer as the person; `None` once the person has ended the talk."""
        text = spoken(message)
        if not self._person_waits:
            answer = self.hear(text)
        else:
            try:
                answer = await in_thread(lambda: self.hear(text))
            except Exception as error:
                self._fail(f"the person: {error}")
                self._is_over, answer = True, None
        return None if answer is None else {"role": "user", "content": answer}

    def hear(self, text: str) -> str | None:
        """Return what the person answers to a text, without waiting."""
        if self._is_over:
            return None
        self._said.append(text)
        answer = self._answer(text)
        self._is_over = answer is None
        return answer

    async def score(self) -> Reward | Invalid:
        """Judge what was done and said, or say that the world failed."""
        return self.score_now()

    def score_now(self) -> Reward | Invalid:
        """Judge without waiting."""
        if self._fault:
            return Invalid(self._fault)
        if not self._has_world():
            return Invalid("the episode was not begun: reset was not called")
        return self._judge()
