"""A run's events as a stream of chat completion chunks, live.

The thinkers' progress comes as `reasoning_content`, the final answer as `content`. The head of the
HTTP answer is sent with the first good reply or piece, so that errors before it keep a status.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from longcat_heavythink._events import (
    CallDelta,
    CallFinished,
    CallStarted,
    Event,
    FellBack,
    RunFinished,
    StageDecided,
    StageStarted,
)
from longcat_heavythink._replies import Usage

Write = Callable[[bytes], Awaitable[None]]


class BrokenAnswer(RuntimeError):
    """The final answer broke off after a part of it was already sent."""


class Chunks:
    """Turns events into the bytes of a stream.

    Args:
        answer_id: Of the whole answer.
        model: As the client named it.
        write: Sends bytes; the head goes out with the first.
    """

    def __init__(self, answer_id: str, model: str, write: Write) -> None:
        self._id, self._model, self._write = answer_id, model, write
        self._created = int(time.time())
        self._width, self._num_done, self._final_stage = 0, 0, -1
        self.has_content = False
        self.has_begun = False

    async def take(self, event: Event) -> None:
        """Send what an event means to the client.

        Raises:
            BrokenAnswer: What was sent as the answer is not going to be completed.
        """
        if isinstance(event, StageStarted):
            self._width, self._num_done = event.width, 0
        elif isinstance(event, CallDelta) and event.is_final:
            self._final_stage = event.stage
            if event.thoughts:
                await self._delta({"reasoning_content": event.thoughts})
            if event.text:
                self.has_content = True
                await self._delta({"content": event.text})
        elif isinstance(event, CallFinished):
            await self._finished(event)
        elif isinstance(event, StageDecided) and self.has_begun:
            await self._progress(f"{event.reason}; {event.num_cancelled} cancelled")
        elif isinstance(event, FellBack) and self.has_begun:
            await self._progress(event.reason)
        elif isinstance(event, CallStarted | RunFinished):
            pass

    async def _finished(self, event: CallFinished) -> None:
        failure = event.reply.failure
        if event.stage == self._final_stage:
            if failure is not None and self.has_content:
                raise BrokenAnswer(failure.message)
            return
        self._num_done += 1
        if failure is not None:
            if self.has_begun:
                await self._progress(f"{self._num_done}/{self._width}: {failure.message}")
            return
        first = next(iter(event.reply.text.strip().splitlines()), "(calls tools)")
        await self._progress(f"{self._num_done}/{self._width}: {first[:100]}")

    async def _progress(self, words: str) -> None:
        await self._delta({"reasoning_content": words + "\n"})

    async def _delta(self, delta: dict[str, Any], finish: str | None = None) -> None:
        if not self.has_begun:
            delta = {"role": "assistant", **delta}
            self.has_begun = True
        await self._send({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    async def _send(self, fields: dict[str, Any]) -> None:
        data = {
            "id": self._id, "object": "chat.completion.chunk", "created": self._created,
            "model": self._model, **fields,
        }  # fmt: skip
        await self._write(f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())

    async def finish(
        self, message: dict[str, Any], finish: str, usage: Usage | None, told: dict[str, Any]
    ) -> None:
        """Send the end: what was not streamed, tool calls, the reason, usage if asked for."""
        if not self.has_content and message.get("content"):
            await self._delta({"content": message["content"]})
        if message.get("tool_calls"):
            calls = [{"index": place, **call} for place, call in enumerate(message["tool_calls"])]
            await self._delta({"tool_calls": calls})
        await self._delta({}, finish)
        if usage is not None:
            await self._send({"choices": [], "usage": usage_fields(usage), "longcat": told})
        await self._write(b"data: [DONE]\n\n")

    async def error(self, message: str) -> None:
        """Send that the answer failed; the stream ends without its end mark."""
        data = {"error": {"message": message, "type": "upstream_error"}}
        await self._write(f"data: {json.dumps(data)}\n\n".encode())


def usage_fields(usage: Usage) -> dict[str, int]:
    """Return usage as OpenAI writes it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
