"""The agent loop: a policy and an environment take turns until one of them is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from ._protocol import Environment, Message
from ._task import Invalid, Reward


class InvalidEpisode(RuntimeError):
    """The world failed, so that the episode has no reward; the message is the reason."""


class Policy(Protocol):
    """Whatever answers a conversation."""

    async def chat(self, messages: list[Message], *, tools: list[dict[str, Any]]) -> Message | None:
        """Return the next assistant message; `None` if it cannot go on (out of room)."""
        ...


@dataclass(frozen=True, slots=True)
class Episode:
    """What happened."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    reward: Reward
    status: str
    """`done`, `turns` (turn limit reached) or `cut` (the policy could not go on)."""
    num_calls: int
    num_errors: int


async def run_episode(environment: Environment, policy: Policy, *, max_turns: int = 16) -> Episode:
    """Let `policy` act in `environment`; the environment is left open.

    A turn is one assistant message with the tool results or user message that follow it.

    Raises:
        InvalidEpisode: The world failed: not to be trained on, not to be counted as a failure.
    """
    observation = await environment.reset()
    messages, status = list(observation.messages), "turns"
    num_calls = num_errors = 0
    for _ in range(max_turns):
        message = await policy.chat(messages, tools=observation.tools)
        if message is None:
            status = "cut"
            break
        messages.append(message)
        calls = _calls(message)
        for call in calls:
            result = await environment.call(call)
            num_calls, num_errors = num_calls + 1, num_errors + result.is_error
            messages.append({
                "role": "tool",
                "tool_call_id": _id(call),
                "name": _name(call),
                "content": result.content,
            })  # fmt: skip
        if not calls:
            answer = await environment.reply(message)
            if answer is None:
                status = "done"
                break
            messages.append(answer)
    reward = await environment.score()
    if isinstance(reward, Invalid):
        raise InvalidEpisode(reward.reason)
    return Episode(messages, observation.tools, reward, status, num_calls, num_errors)


def _calls(message: Message) -> list[Any]:
    """The calls of a message; whatever else a policy put there is one malformed call."""
    calls: Any = message.get("tool_calls") or []
    return cast("list[Any]", calls) if isinstance(calls, list) else [calls]


def _id(call: Any) -> Any:
    return cast("Message", call).get("id", "") if isinstance(call, dict) else ""


def _name(call: Any) -> str:
    """The name of the function called; a malformed call has none."""
    try:
        return str(call["function"]["name"])
    except (KeyError, TypeError):
        return ""
