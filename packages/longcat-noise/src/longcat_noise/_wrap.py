"""Put noise around any environment; the environment does not know.

A failure replaces a call that then did not happen. Hidden values and padding change only what the
agent sees. The judgement is always the environment's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ._draw import Draw
from ._noise import NoiseConfig, disturb_request, disturb_result, tool_kind

Message = dict[str, Any]


class Observation(Protocol):
    """What an environment's `reset` returns."""

    @property
    def messages(self) -> list[Message]:
        """The opening."""
        ...

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The function tools."""
        ...


class Environment(Protocol):
    """What can be wrapped: `longcat_envs.Environment` by shape."""

    async def reset(self) -> Any:
        """Begin anew."""
        ...

    async def call(self, tool_call: Mapping[str, Any]) -> Any:
        """Answer a tool call."""
        ...

    async def reply(self, message: Message) -> Message | None:
        """Answer a message."""
        ...

    async def score(self) -> Any:
        """Judge."""
        ...

    async def close(self) -> None:
        """Free what is held."""
        ...


@dataclass(frozen=True, slots=True)
class NoisyResult:
    """A tool result as the agent sees it."""

    content: str
    is_error: bool
    is_noise: bool = True


class NoisyEnvironment:
    """An environment whose user slips and whose tools fail, reproducibly.

    Args:
        inner: The environment.
        config: How much noise.
        episode: Names the episode; the same name gives the same noise.
        protected: Literals in the user's words that must survive (names, ids, values). A function
            is asked once, at reset.
    """

    def __init__(
        self,
        inner: Environment,
        config: NoiseConfig,
        *,
        episode: str,
        protected: Iterable[str] | Callable[[], Iterable[str]] = (),
    ) -> None:
        self.inner, self.config = inner, config
        self._draw = Draw(config.seed, episode)
        self._protected = protected
        self._literals: tuple[str, ...] = ()
        self._calls: Counter[str] = Counter()
        self._disturbed: Counter[str] = Counter()

    async def reset(self) -> Any:
        """Begin anew; the first user message may be disturbed."""
        self._calls.clear()
        self._disturbed.clear()
        given = self._protected() if callable(self._protected) else self._protected
        self._literals = tuple(given)
        observation = await self.inner.reset()
        for message in observation.messages:
            if message["role"] == "user":
                message["content"] = self._slip(message["content"], 0)
        return observation

    async def call(self, tool_call: Mapping[str, Any]) -> Any:
        """Answer a call, or not."""
        tool = str(tool_call["function"]["name"])
        nth = self._calls[tool]
        self._calls[tool] += 1
        kind = tool_kind(self.config, self._draw, tool, nth, self._disturbed[tool])
        if kind is None:
            return await self.inner.call(tool_call)
        self._disturbed[tool] += 1
        if kind == "failure":
            return NoisyResult(disturb_result(kind, "", self._draw, tool, nth), is_error=True)
        result = await self.inner.call(tool_call)
        content = disturb_result(kind, result.content, self._draw, tool, nth)
        return NoisyResult(content, result.is_error)

    async def reply(self, message: Message) -> Message | None:
        """Pass on; later user messages are left as they are, as they answer a question."""
        return await self.inner.reply(message)

    async def score(self) -> Any:
        """Judge as the environment does."""
        return await self.inner.score()

    async def close(self) -> None:
        """Free what is held."""
        await self.inner.close()

    def _slip(self, text: str, nth: int) -> str:
        return disturb_request(
            text, config=self.config, draw=self._draw, protected=self._literals, nth=nth
        )
