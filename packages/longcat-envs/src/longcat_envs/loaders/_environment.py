"""A foreign task behind the protocol of `longcat_envs.Environment`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from longcat_envs._frame import Frame
from longcat_envs._protocol import Observation, Talker, ToolResult, encodable
from longcat_envs._task import CLOSED, Invalid, Reward

from ._hands import Handy
from ._types import ForeignSet, ForeignTask, Session, TwoSided

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


class ForeignEnvironment(Frame):
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
        self._make_person = person or source.person
        self._session: Session | None = None
        super().__init__(person_waits=person is not None)

    def _wipe(self) -> None:
        super()._wipe()
        self._turn = 0
        self._names = {schema["function"]["name"] for schema in self.task.tools}

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
        self._wipe()
        try:
            self._session = self.source.begin(self.task)
            self._person = self._make_person(self.task)
            if isinstance(self._session, TwoSided) and isinstance(self._person, Handy):
                self._person.take(self.task.acts, self._session.act)
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            self._is_over = True

    @property
    def session(self) -> Session:
        """The live world of the episode under way."""
        assert self._session is not None, "reset() comes first"
        return self._session

    def _has_world(self) -> bool:
        return self._session is not None

    def _offered(self) -> Collection[str]:
        return self._names

    def _run(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        text, is_error = self.session.call(name, arguments)
        return ToolResult(encodable(text[:MAX_RESULT]), is_error)

    def _answer(self, text: str) -> str | None:
        if self._session is None:
            return None
        try:
            self._session.end_turn()
            answer = self._person.answer(text)
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            return None
        self._turn += 1
        self._names |= {s["function"]["name"] for turn, s in self.task.later if turn == self._turn}
        return answer

    def _judge(self) -> Reward:
        said = "\n".join(self._said)
        parts = {CLOSED: float(self._is_over), **self.session.parts(said)}
        return Reward(float(all(parts.values())), parts)

    def score_now(self) -> Reward | Invalid:
        """Judge as the set's own scorer does; where that fails, the world did."""
        try:
            return super().score_now()
        except Exception as error:
            return Invalid(f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """Free the world; `reset` builds it anew."""
        self._session = None
