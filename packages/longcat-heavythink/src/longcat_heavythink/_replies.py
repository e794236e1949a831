"""The vocabulary: what is asked of a model, and what comes back.

- A reply is data. Whether it counts is said by `Reply.failure`, never by an empty string.
- Thoughts, text and tool calls lie in fields of their own.
- Everything that is written to a journal or sent by the proxy is made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

FORMAT = 1
"""Of replies in a journal. A reader refuses a higher one."""

Message = Mapping[str, Any]
"""An OpenAI message: `role`, `content` (text, parts or null), `tool_calls`, `tool_call_id`."""


class FailureKind(StrEnum):
    """Why a reply does not count."""

    UNREACHABLE = "unreachable"
    """No connection."""
    TIMEOUT = "timeout"
    """Connected, but no byte came for too long, or the deadline of the call passed."""
    CUT = "cut"
    """The connection ended before the answer did."""
    RATE_LIMITED = "rate_limited"
    SERVER = "server"
    """Status 5xx, or an error inside a stream."""
    REFUSED = "refused"
    """Status 4xx: the request, the key or the model's name is wrong."""
    CONTEXT = "context"
    """The prompt is longer than the model's context."""
    MALFORMED = "malformed"
    """An answer that is not a chat completion."""
    EMPTY = "empty"
    """Neither text nor tool calls."""
    TRUNCATED = "truncated"
    """Stopped at the limit of tokens; `Reply.text` holds what there is."""
    UNCLOSED = "unclosed"
    """The thoughts never ended, so there is no answer."""
    FILTERED = "filtered"
    RAISED = "raised"
    """The function that was given raised."""
    CANCELLED = "cancelled"
    """Not needed any more: a vote was decided, or a quorum was there."""
    BUDGET = "budget"
    """Not sent: the budget would not have covered it, or its time was over."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason, in words and as data."""

    kind: FailureKind
    message: str
    status: int | None = None
    """Of HTTP, where there was one."""
    body: str = ""
    """The beginning of what the server said."""
    retry_after_s: float | None = None
    permanent: bool = False
    """Whether a second try is known to be useless."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that a model asks for."""

    name: str
    arguments: str = "{}"
    """JSON, exactly as the model wrote it."""
    id: str = ""

    def to_message(self) -> dict[str, Any]:
        """Return the form that OpenAI messages hold."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call or of many."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """Whether any of it was counted by us because the server did not say."""

    @property
    def total_tokens(self) -> int:
        """`prompt_tokens + completion_tokens`."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, retries included."""

    total_s: float = 0.0
    waited_s: float = 0.0
    """For a free connection and between tries."""
    first_token_s: float | None = None
    """From the start of the try that answered; only where the answer was streamed."""
    tries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back from one call.

    >>> Reply(text="42").good
    True
    >>> Reply(failure=Failure(FailureKind.EMPTY, "nothing came")).good
    False
    """

    text: str = ""
    """The answer alone."""
    thoughts: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    """In the server's words."""
    failure: Failure | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    confidence: tuple[float, ...] | None = None
    """Per token: minus the mean log-probability of the likeliest tokens there (DeepConf)."""
    model: str = ""

    @property
    def good(self) -> bool:
        """Whether the reply counts as an attempt."""
        return self.failure is None

    def to_message(self) -> dict[str, Any]:
        """Return the assistant's message for a history: text and tool calls, never thoughts."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["content"] = self.text or None
            message["tool_calls"] = [call.to_message() for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply while it is streamed."""

    text: str = ""
    thoughts: str = ""


@dataclass(slots=True, kw_only=True)
class Call:
    """One request to a model. Not changed by whoever receives it."""

    messages: Sequence[Message]
    temperature: float
    max_tokens: int | None = None
    """`None` leaves it to the model's own setting."""
    tools: Sequence[Mapping[str, Any]] = ()
    top_logprobs: int = 0
    """How many log-probabilities per token to ask for, so that confidence is known."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the request, such as `top_p` or `tool_choice`."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Of HTTP, on top of the endpoint's own."""
    on_delta: Callable[[Delta], None] | None = None
    """Called as pieces come; asks for a stream."""
    on_retry: Callable[[Failure, float], None] | None = None
    """Called with the reason and the pause in seconds before another try."""


def reply_to_json(reply: Reply) -> dict[str, Any]:
    """Return a reply as plain data, absent fields left out."""
    data: dict[str, Any] = {}
    for name in ("text", "thoughts", "finish_reason", "model"):
        if getattr(reply, name):
            data[name] = getattr(reply, name)
    if reply.tool_calls:
        data["tool_calls"] = [[c.name, c.arguments, c.id] for c in reply.tool_calls]
    if reply.failure is not None:
        f = reply.failure
        data["failure"] = [str(f.kind), f.message, f.status, f.body, f.retry_after_s, f.permanent]
    if reply.usage is not None:
        u = reply.usage
        data["usage"] = [u.prompt_tokens, u.completion_tokens, u.estimated]
    if reply.timing is not None:
        t = reply.timing
        data["timing"] = [t.total_s, t.waited_s, t.first_token_s, t.tries]
    if reply.confidence is not None:
        data["confidence"] = [round(value, 4) for value in reply.confidence]
    return data


def reply_from_json(data: Mapping[str, Any]) -> Reply:
    """Return the reply that `reply_to_json` wrote."""
    failure = data.get("failure")
    return Reply(
        text=data.get("text", ""),
        thoughts=data.get("thoughts", ""),
        finish_reason=data.get("finish_reason", ""),
        model=data.get("model", ""),
        tool_calls=tuple(ToolCall(*call) for call in data.get("tool_calls", ())),
        failure=Failure(FailureKind(failure[0]), *failure[1:]) if failure else None,
        usage=Usage(*data["usage"]) if "usage" in data else None,
        timing=Timing(*data["timing"]) if "timing" in data else None,
        confidence=tuple(data["confidence"]) if "confidence" in data else None,
    )


def plain_text(content: Any) -> str:
    """Return the text of a message's content: a string, or the text parts of a list.

    It can be written as UTF-8: halves of a surrogate pair are joined, a lone one is U+FFFD.
    """
    if isinstance(content, str):
        return _writable(content)
    if not isinstance(content, list):
        return ""
    parts = cast("list[Any]", content)
    texts: list[str] = []
    for part in parts:
        if isinstance(part, dict):
            fields = cast("dict[str, Any]", part)
            is_text = fields.get("type", "text") in ("text", "input_text", "output_text")
            part = fields.get("text") if is_text else None
        if isinstance(part, str):
            texts.append(part)
    return _writable("".join(texts))


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
