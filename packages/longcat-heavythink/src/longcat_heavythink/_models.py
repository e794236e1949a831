"""What can be asked: a `Model`, or any async function.

A function gets a copy of the messages of its own; what it returns is taken apart like a server's
answer, and what it raises becomes the failure of that attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from ._replies import Call, Delta, Failure, FailureKind, Message, Reply, ToolCall, plain_text
from ._thoughts import may_hold_thoughts, split_thoughts

Complete = Callable[[list[Message], float], Awaitable[str | Reply]]
"""`await complete(messages, temperature)` returns an answer: text, or a whole `Reply`."""


@runtime_checkable
class Model(Protocol):
    """Something that replies. Failures come back as data; only cancellation is raised."""

    @property
    def name(self) -> str:
        """Return what a journal calls it."""
        ...

    async def reply(self, call: Call) -> Reply:
        """Answer one call."""
        ...


class FunctionModel:
    """An async function as a model."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self.name = getattr(complete, "__qualname__", type(complete).__name__)
        self.last_error: Exception | None = None

    async def reply(self, call: Call) -> Reply:
        """Ask the function; what it raises is a failure."""
        messages: list[Message] = [copy_message(message) for message in call.messages]
        try:
            answer: Any = await self._complete(messages, call.temperature)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Reply(failure=Failure(FailureKind.RAISED, "cancelled by itself"))
        except Exception as error:
            self.last_error = error
            words = str(error) or type(error).__name__
            return Reply(failure=Failure(FailureKind.RAISED, words))
        if isinstance(answer, str):
            reply = text_reply(answer)
        elif isinstance(answer, Reply):
            reply = answer if answer.failure is not None else _judged_again(answer)
        else:
            words = f"complete must return text or a Reply, got {type(answer).__name__}"
            return Reply(failure=Failure(FailureKind.MALFORMED, words))
        if call.on_delta is not None and reply.text:
            call.on_delta(Delta(text=reply.text))
        return reply


def as_model(complete: Complete | Model) -> Model:
    """Return `complete` as a model."""
    if isinstance(complete, Model):
        return complete
    return FunctionModel(complete)


def copy_message(message: Message) -> dict[str, Any]:
    """Return a copy that shares no list or dictionary with the original."""
    return {
        name: value if isinstance(value, str) else _copy(value) for name, value in message.items()
    }


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(inner) for name, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_copy(inner) for inner in cast("list[Any]", value)]
    return value


def text_reply(content: str) -> Reply:
    """Return a reply made from a completion's text, its thoughts told apart."""
    if not may_hold_thoughts(content):
        text = plain_text(content).strip()
        return Reply(text=text) if text.strip(_UNSEEN) else Reply(failure=_NOTHING)
    return judged(content)


def _judged_again(reply: Reply) -> Reply:
    """Return a function's reply with the reason for which it does not count, as a server's."""
    return judged(
        reply.text, thoughts=reply.thoughts, tool_calls=reply.tool_calls,
        finish_reason=reply.finish_reason, usage=reply.usage, timing=reply.timing,
        confidence=reply.confidence, model=reply.model,
    )  # fmt: skip


_NOTHING = Failure(FailureKind.EMPTY, "the answer is empty")
_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff \t\r\n"
"""Letters of no width: an answer of nothing else is empty, whatever `str.strip` says."""


# Reasons to finish, in the words of vLLM, SGLang, Mistral, DeepSeek, Zhipu, Anthropic and Gemini.
_TRUNCATED = {
    "length", "max_tokens", "max_output_tokens", "model_length", "token_limit",
    "model_context_window_exceeded",
}  # fmt: skip
_FILTERED = {
    "content_filter", "content_filtered", "safety", "sensitive", "recitation", "blocklist",
    "prohibited_content", "spii",
}  # fmt: skip
_STOPPED = {
    "error", "abort", "aborted", "cancelled", "canceled", "network_error", "timeout",
    "insufficient_system_resource",
}  # fmt: skip


def judged(
    content: Any,
    *,
    thoughts: str = "",
    tool_calls: tuple[ToolCall, ...] = (),
    finish_reason: str = "",
    **fields: Any,
) -> Reply:
    """Return a reply with the reason for which it does not count, if there is one.

    Args:
        content: Of the message: text, parts or nothing.
        thoughts: Where the server told them apart; the text is then left whole.
        tool_calls: That the model asks for.
        finish_reason: In the server's words.
        fields: Of `Reply`, taken over.
    """
    text, unclosed = plain_text(content).strip(), False
    if not thoughts and may_hold_thoughts(text):
        parts = split_thoughts(text)
        text, thoughts, unclosed = parts.text, parts.thoughts, parts.unclosed
    failure: Failure | None = None
    if not (content is None or isinstance(content, str | list)):
        kind = type(content).__name__  # pyright: ignore[reportUnknownArgumentType]
        failure = Failure(FailureKind.MALFORMED, f"content must be text or parts, got {kind}")
    elif (ended := finish_reason.lower().replace("-", "_")) in _TRUNCATED:
        where = "inside its thoughts" if unclosed or not text else "before its answer was complete"
        failure = Failure(FailureKind.TRUNCATED, f"stopped at the limit of tokens, {where}")
    elif ended in _FILTERED:
        failure = Failure(FailureKind.FILTERED, "stopped by the server's content filter")
    elif ended in _STOPPED:
        failure = Failure(FailureKind.CUT, f"the server stopped before the end: {finish_reason}")
    elif unclosed:
        failure = Failure(FailureKind.UNCLOSED, "the thoughts never ended")
    elif not text.strip(_UNSEEN) and not tool_calls:
        failure = _NOTHING
    return Reply(
        text=text, thoughts=thoughts, tool_calls=tool_calls, finish_reason=finish_reason,
        failure=failure, **fields,
    )  # fmt: skip
