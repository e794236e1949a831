"""Whatever can answer a conversation: a server, a Hugging Face model, or one of ours."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from .errors import UsageError
from .folder import read_json
from .models import SOURCES, get_model, is_here, models_root

Message = dict[str, Any]
DEFAULT_KEY = "OPENAI_API_KEY"
"""The variable that holds a server's key, if none is named; it may be missing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer as it comes."""

    text: str
    kind: Literal["text", "thought"] = "text"


@dataclass(frozen=True, slots=True)
class Call:
    """A whole tool call of an answer."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""

    def as_message_part(self) -> dict[str, Any]:
        """As it stands in an assistant message."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


class Talker(Protocol):
    """Streams an answer."""

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        tools: Sequence[Any],
    ) -> AsyncIterator[Piece | Call]:
        """Yield the text of an answer as it comes, and its calls once they are whole.

        Raises:
            UsageError: It failed, or ended before its end; what had come was yielded.
        """
        ...


async def answer_of(pieces: AsyncIterator[Piece | Call], show: Any = None) -> Message:
    """Collect an answer into one assistant message, showing its pieces as they come."""
    text, thought, calls = "", "", list[Call]()
    async for piece in pieces:
        if isinstance(piece, Call):
            calls.append(piece)
        elif piece.kind == "thought":
            thought += piece.text
        else:
            text += piece.text
        if show is not None:
            show(piece)
    message: Message = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [call.as_message_part() for call in calls]
    return message


def make_talker(model: str, *, api_key_env: str, server_model: str | None) -> Talker:
    """Choose by what `model` is: a URL, a folder, or the name of a model that can be fetched.

    Raises:
        UsageError: It is none of these, the folder holds no model, or `server_model` has no server.
    """
    if model.startswith(("http://", "https://")):
        from .server_talker import ServerTalker

        return ServerTalker(model, _key(api_key_env), server_model)
    if api_key_env != DEFAULT_KEY:
        raise UsageError(f"--api-key-env goes with the URL of a server, got --model {model!r}")
    if server_model is not None:
        raise UsageError(f"--server-model goes with the URL of a server, got --model {model!r}")
    from .local_talkers import LongcatTalker, TransformersTalker

    if model in SOURCES:
        return TransformersTalker(models_root() / model if is_here(model) else get_model(model))
    folder = Path(model)
    config = folder / "config.json"
    if not config.is_file():
        raise UsageError(
            f"--model must be a checkpoint folder, a URL, or one of {', '.join(SOURCES)}; "
            f"{model!r} is none"
        )
    said = read_json(config)
    if not isinstance(said, dict):
        raise UsageError(f"{config} must be a model's configuration, it holds {str(said)[:40]!r}")
    kind = str(said.get("model_type"))
    return LongcatTalker(folder) if kind.startswith("longcat_flash") else TransformersTalker(folder)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key and variable != DEFAULT_KEY:
        raise UsageError(f"--api-key-env {variable}: the variable must hold a key, it is empty")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the key in {variable} must be printable ASCII, and is not")
    return key
