"""Context memory: what a conversation over many turns remembers.

- Only the final answer of a turn enters the history, with its tool calls and their results.
- Thoughts never do; the K answers are seen by the summary of their own turn and by nothing later.
- A turn that fails leaves the history as it was.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ._models import Complete, Model, copy_message
from ._replies import Message, ToolCall
from ._think import HeavyAnswer, HeavyConfig, think

CallTool = Callable[[ToolCall], Awaitable[str]]
"""`await call_tool(call)` returns the tool's result as text."""


class Conversation:
    """A conversation whose every answer is thought about K times.

    Args:
        complete: The thinker.
        system: The system message, if any.
        config: Of every turn.
        call_tool: Carries out the tool calls that answers ask for; without it they are left to
            the caller, who answers them with `add_tool_result` and then calls `go_on`.
        max_tool_rounds: Of one turn.
        options: Further arguments of `think`, such as `tools`, `summarise` or `journal`.
    """

    def __init__(
        self, complete: Complete | Model, *, system: str = "", config: HeavyConfig | None = None,
        call_tool: CallTool | None = None, max_tool_rounds: int = 8, **options: Any,
    ) -> None:  # fmt: skip
        self._complete, self._config, self._options = complete, config, options
        self._call_tool, self._max_tool_rounds = call_tool, max_tool_rounds
        self._messages: list[Message] = []
        if system:
            self._messages.append({"role": "system", "content": system})

    @property
    def messages(self) -> list[dict[str, Any]]:
        """A copy of the history."""
        return [copy_message(message) for message in self._messages]

    async def ask(self, content: str | Sequence[Mapping[str, Any]]) -> HeavyAnswer:
        """Answer the user: text, or parts such as images.

        Raises:
            HeavyThinkError: Every attempt failed; the history is as before.
        """
        waiting = self._waiting()
        if waiting:
            raise ValueError(f"tool calls wait for their results: {', '.join(waiting)}")
        question = content if isinstance(content, str) else [dict(part) for part in content]
        return await self._turn([{"role": "user", "content": question}])

    def add_tool_result(self, tool_call_id: str, result: str) -> None:
        """Add what a tool gave back for one of the last answer's calls."""
        if tool_call_id not in self._waiting():
            known = ", ".join(self._waiting()) or "none"
            raise ValueError(f"tool_call_id must be one that waits ({known}), got {tool_call_id!r}")
        self._messages.append(_tool_message(tool_call_id, result))

    async def go_on(self) -> HeavyAnswer:
        """Answer after all tool results of the last answer were added."""
        if self._waiting():
            raise ValueError(f"tool calls wait for their results: {', '.join(self._waiting())}")
        return await self._turn([])

    def save(self, path: str | Path) -> None:
        """Write the history as JSON."""
        text = json.dumps(self._messages, indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", "utf-8")

    def load(self, path: str | Path) -> None:
        """Read the history that `save` wrote."""
        data: Any = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(data, list) or not all(
            isinstance(m, dict) and "role" in m for m in cast("list[Any]", data)
        ):
            raise ValueError(f"{path} must be a list of messages")
        self._messages = [copy_message(m) for m in cast("list[Message]", data)]

    async def _turn(self, added: list[Message]) -> HeavyAnswer:
        history = [*self._messages, *added]
        for _ in range(self._max_tool_rounds + 1):
            answer = await think(history, self._complete, config=self._config, **self._options)
            history.append(answer.reply.to_message())
            if not answer.reply.tool_calls or self._call_tool is None:
                self._messages = history
                return answer
            for call in answer.reply.tool_calls:
                history.append(_tool_message(call.id, await _result(self._call_tool, call)))
        raise RuntimeError(f"an answer must come within {self._max_tool_rounds} rounds of tools")

    def _waiting(self) -> list[str]:
        """Return the ids of the last answer's tool calls that have no result."""
        answered: set[str] = set()
        for message in reversed(self._messages):
            if message.get("role") == "tool":
                answered.add(str(message.get("tool_call_id")))
                continue
            calls: list[Any] = list(message.get("tool_calls") or ())
            return [call["id"] for call in calls if call["id"] not in answered]
        return []


def _tool_message(tool_call_id: str, result: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": tool_call_id, "content": result}


async def _result(call_tool: CallTool, call: ToolCall) -> str:
    """Return a tool's result; what it raises is told to the model, which may mend it."""
    try:
        result: Any = call_tool(call)
        return str(await result if inspect.isawaitable(result) else result)
    except Exception as error:
        return f"error: {error or type(error).__name__}"
