"""Put noise around any environment; the environment does not know.

A failure replaces a call that then did not happen. Everything else changes only what the agent
sees. The judgement is always the environment's own, and what it returns passes untouched.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from ._apply import Applier
from ._contract import Book, Call
from ._draw import canonical
from ._kind import UserKind
from ._noise import EpisodeNoise, NoiseConfig, say
from ._written import Written

Message = dict[str, Any]


class Environment(Protocol):
    """What can be wrapped: `reset`, `call`, `reply`, `score`, `close`, asynchronous or not."""

    def reset(self) -> Any:
        """Begin anew; return something with `messages` and `tools`."""
        ...

    def call(self, tool_call: Mapping[str, Any]) -> Any:
        """Answer a tool call with something that has `content` and `is_error`."""
        ...

    def reply(self, message: Message) -> Any:
        """Answer a message; `None` ends the talk."""
        ...

    def score(self) -> Any:
        """Judge."""
        ...

    def close(self) -> Any:
        """Free what is held."""
        ...


class NoisyEnvironment:
    """An environment whose user slips and whose tools fail, reproducibly.

    Args:
        inner: The environment.
        config: How much noise.
        episode: Names the episode; the same name gives the same noise.
        protected: Literals in the user's words that must survive (names, ids, values). A function
            is asked once, at reset.
        contracts: What the tools read and write. Without them only what is safe for any tool.
        chains: Golden chains, where they are known.
        allowance: Disturbances with a cost that the chains may meet (`Certificate.allowance`).
        written: Turns that a model has written; without one, a kind's own sentences are said.

    Example:
        >>> NoisyEnvironment(None, NoiseConfig(level=0.5), episode="e").log
        []
    """

    def __init__(
        self,
        inner: Any,
        config: NoiseConfig,
        *,
        episode: str,
        protected: Iterable[str] | Callable[[], Iterable[str]] = (),
        contracts: Book | Iterable[Any] = (),
        chains: Sequence[Sequence[Call]] = (),
        allowance: int | None = None,
        written: Written | None = None,
    ) -> None:
        self.inner, self.config, self._written = inner, config, written or Written()
        self._episode, self._protected = episode, protected
        self._book = contracts if isinstance(contracts, Book) else Book.of(contracts)
        self._chains, self._allowance = tuple(chains), allowance
        self._literals: tuple[str, ...] = ()
        self._pending: Message | None = None
        self._turns = 0
        self._applier = self._begin(self._book)

    def _begin(self, book: Book) -> Applier:
        noise = EpisodeNoise(self.config, self._episode, book=book, chains=self._chains,
                             allowance=self._allowance)  # fmt: skip
        return Applier(noise)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was disturbed since `reset`."""
        return self._applier.log

    @property
    def elapsed_s(self) -> float:
        """Latency since `reset`, on the virtual clock."""
        return self._applier.elapsed_s

    async def reset(self) -> Any:
        """Begin anew; the user's first turn may be disturbed."""
        given = self._protected() if callable(self._protected) else self._protected
        self._literals = tuple(given)
        observation = await _awaited(self.inner.reset())
        self._applier = self._begin(self._book.with_schemas(observation.tools))
        self._turns, self._pending = 0, None
        messages = [
            self._heard(message) if message["role"] == "user" else message
            for message in observation.messages
        ]
        return _with_messages(observation, messages)

    async def call(self, tool_call: Mapping[str, Any]) -> Any:
        """Answer a call, or not."""
        tool, arguments = _named(tool_call)
        applier = self._applier
        met = applier.meet(tool, arguments)
        seen = applier.instead(met, tool) if met is not None else None
        if seen is not None:
            return seen
        result = await _awaited(self.inner.call(tool_call))
        if result.is_error or not isinstance(result.content, str):
            return result
        if met is not None:
            seen = applier.after(met, tool, result.content)
        elif applier.keeps_answers:
            applier.keep((tool, canonical(arguments)), result.content)
        return result if seen is None else seen

    async def reply(self, message: Message) -> Message | None:
        """Answer a message; every turn of the user may be disturbed."""
        if self._pending is not None:  # what was asked for is said first
            pending, self._pending = self._pending, None
            return pending
        answer = await _awaited(self.inner.reply(message))
        return None if answer is None else self._heard(answer)

    async def score(self) -> Any:
        """Judge as the environment does."""
        return await _awaited(self.inner.score())

    async def close(self) -> None:
        """Free what is held."""
        await _awaited(self.inner.close())

    def _heard(self, message: Message) -> Message:
        """Return a user's message as it is heard."""
        nth, self._turns = self._turns, self._turns + 1
        kind = self._applier.noise.meet_turn(nth)
        if kind is None:
            return message
        content: Any = message.get("content")
        if isinstance(content, str):
            changed: Any = self._say(kind, content, nth)
        elif isinstance(content, list):
            changed = [self._part(kind, part, nth) for part in cast("list[Any]", content)]
        else:
            return message
        if changed == content:
            return message
        if kind.is_deferring:
            self._pending = message
        self._applier.log.append({"turn": nth, "kind": kind.name, "seen": changed})
        return {**message, "content": changed}

    def _part(self, kind: UserKind, part: Any, nth: int) -> Any:
        """Return one part of a message's content; what is not text stays as it is."""
        fields: dict[str, Any] = cast("Any", part) if isinstance(part, dict) else {}
        text: Any = fields.get("text")
        if not isinstance(text, str):
            return cast("Any", part)
        return {**fields, "text": self._say(kind, text, nth)}

    def _say(self, kind: UserKind, text: str, nth: int) -> str:
        """Return how a text is said: as a model wrote it, or as the kind itself does."""
        written = self._written.find(kind.name, text)
        draw = self._applier.noise.draw
        return say(kind, text, draw, self._literals, nth) if written is None else written


def _named(tool_call: Any) -> tuple[str, object]:
    """Return the tool and the arguments; a call of no such form is the environment's to refuse."""
    outer: Mapping[str, Any] = cast("Any", tool_call) if isinstance(tool_call, Mapping) else {}
    function: Any = outer.get("function")
    if not isinstance(function, Mapping):
        return "", None
    fields = cast("Mapping[str, Any]", function)
    return str(fields.get("name", "")), fields.get("arguments")


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _with_messages(observation: Any, messages: list[Message]) -> Any:
    """Return an observation with other messages; the environment's own stays as it is."""
    if dataclasses.is_dataclass(observation) and not isinstance(observation, type):
        return dataclasses.replace(cast("Any", observation), messages=messages)
    changed: Any = copy.copy(observation)
    changed.messages = messages
    return changed
