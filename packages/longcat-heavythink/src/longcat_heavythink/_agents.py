"""Thinkers that act: each attempt a whole episode, in a copy of the world of its own.

Only the last answer of an episode is a candidate; what it did on the way is kept in its thoughts,
which no summary sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from ._models import Model
from ._replies import Call, Failure, FailureKind, Message, Reply, ToolCall, Usage


class World(Protocol):
    """An environment, as longcat-envs has them: `reset` and `call` are enough here."""

    async def reset(self) -> Any:
        """Begin; return an observation with `messages` and `tools`."""
        ...

    async def call(self, tool_call: Any) -> Any:
        """Carry out a tool call; return its result, text or with `content`."""
        ...


class EpisodeModel:
    """A model whose every reply is an episode of tool calls.

    Args:
        model: Who acts.
        make_world: Called for each attempt; returns a world that no other attempt shares. `None`
            leaves the tools to `call_tool`.
        max_turns: Calls of the model in one episode.
        to_call: Turns our `ToolCall` into what the world takes; its OpenAI message when absent.
    """

    def __init__(
        self,
        model: Model,
        make_world: Callable[[], World],
        *,
        max_turns: int = 16,
        to_call: Callable[[ToolCall], Any] | None = None,
    ) -> None:
        self._model, self._make_world = model, make_world
        self._max_turns, self._to_call = max_turns, to_call or ToolCall.to_message
        self.name = f"episode of {model.name}"
        self.journal_name = f"episode of {getattr(model, 'journal_name', model.name)}"
        self.max_tokens: int | None = getattr(model, "max_tokens", None)

    async def reply(self, call: Call) -> Reply:
        """Play one episode; its last answer is the reply."""
        world = self._make_world()
        usage, done = Usage(), list[str]()
        try:
            messages, tools = _observed(await world.reset(), call)
            for _ in range(self._max_turns):
                reply = await self._model.reply(_next(call, messages, tools))
                usage += reply.usage or Usage()
                if not reply.good or not reply.tool_calls:
                    return _ended(reply, usage, done)
                messages.append(reply.to_message())
                for asked in reply.tool_calls:
                    result = _text(await world.call(self._to_call(asked)))
                    done.append(f"{asked.name}({asked.arguments}) -> {result}")
                    messages.append({"role": "tool", "tool_call_id": asked.id, "content": result})
        except Exception as error:
            words = f"the episode broke: {error or type(error).__name__}"
            failure = Failure(FailureKind.RAISED, words)
            return Reply(failure=failure, usage=usage, thoughts="\n".join(done))
        failure = Failure(FailureKind.TRUNCATED, f"no answer within {self._max_turns} turns")
        return Reply(failure=failure, usage=usage, thoughts="\n".join(done))


def _observed(seen: Any, call: Call) -> tuple[list[Message], Sequence[Mapping[str, Any]]]:
    """Return the messages and tools that an episode begins with: the world's after the call's."""
    own: list[Message] = list(_field(seen, "messages") or ())
    tools: Any = _field(seen, "tools") or call.tools
    given = list(call.messages)
    extra = [message for message in own if message not in given]
    return [*extra, *given], tools


def _field(seen: Any, name: str) -> Any:
    if isinstance(seen, Mapping):
        return cast("Mapping[str, Any]", seen).get(name)
    return getattr(seen, name, None)


def _next(call: Call, messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> Call:
    return Call(
        messages=list(messages), temperature=call.temperature, max_tokens=call.max_tokens,
        tools=tools, top_logprobs=call.top_logprobs, extra=call.extra, on_retry=call.on_retry,
    )  # fmt: skip


def _ended(reply: Reply, usage: Usage, done: list[str]) -> Reply:
    return Reply(
        text=reply.text, thoughts="\n".join([*done, reply.thoughts]).strip(),
        finish_reason=reply.finish_reason, failure=reply.failure, usage=usage,
        timing=reply.timing, confidence=reply.confidence, model=reply.model,
    )  # fmt: skip


def _text(result: Any) -> str:
    content: Any = getattr(result, "content", result)
    return content if isinstance(content, str) else json.dumps(content, default=str)
