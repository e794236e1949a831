r"""The chat format of LongCat-Flash-Thinking-2601: messages and tools to text and back.

    <longcat_tool_declare>..tools..</longcat_tool_declare><longcat_system>..<longcat_user>..
     /think_on
     <longcat_assistant><longcat_think>\n..thought..\n</longcat_think>\n..answer..</longcat_s>

- A conversation only ever grows: what was sampled is kept as it was sampled, and text that comes
  later is appended. `Renderer`-like use: `start`, then per turn sampled ids and `extend`.
- `parse` inverts the rendering of an assistant turn. What cannot be parsed stays content, and
  `malformed` says why.
- The same rendering as a Jinja template, for other tools: `chat_template`.
- Not seen, and chosen here: the marker without thinking (`/think_off`), and that a dropped thought
  takes its tags with it.

Source: the released examples and parsers of LongCat-Flash-Thinking-2601 (family 2601).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

from ._arguments import parameter_types, read_value
from ._tokenizer import EOS

Message = Mapping[str, Any]

GENERATION_PROMPT = " /think_on <longcat_assistant><longcat_think>\n"
_NO_THOUGHT = " /think_off <longcat_assistant>"
_DROPPED = " /think_on <longcat_assistant>"
_CALL = ("<longcat_tool_call>", "</longcat_tool_call>")
_KEY = ("<longcat_arg_key>", "</longcat_arg_key>")
_VALUE = ("<longcat_arg_value>", "</longcat_arg_value>")
_NO_PARAMETERS = {"type": "object", "properties": {}}
NOTE = """**Note**: To call a function, write
<longcat_tool_call>{function-name}
<longcat_arg_key>{key}</longcat_arg_key>
<longcat_arg_value>{value}</longcat_arg_value>
</longcat_tool_call>
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation."""

    text: str
    is_sampled: bool
    """Whether a model wrote it, end-of-turn token included."""
    message: int
    """Index of the message it belongs to; for a prompt, of the last message before it."""


class ChatFormat:
    """Renders and parses conversations for one tokenizer.

    Args:
        tokenizer: Must know the LongCat markers.
        declare: How tools are shown: `full` as released, with schemas; `brief` as a list of names,
            for models that were trained on the tools themselves.
    """

    def __init__(self, tokenizer: Tokenizer, *, declare: Literal["full", "brief"] = "full") -> None:
        if declare not in ("full", "brief"):
            raise ValueError(f"declare must be 'full' or 'brief', got {declare!r}")
        self.tokenizer, self.declare = tokenizer, declare

    def start(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        enable_thinking: bool = True,
        keep_thoughts: bool = True,
    ) -> list[int]:
        """Token ids of a conversation up to where the assistant is to speak.

        Args:
            messages: The conversation so far.
            tools: JSON-Schema function tools.
            enable_thinking: Let it think first.
            keep_thoughts: See `pieces`.
        """
        pieces = self.pieces(messages, tools, keep_thoughts=keep_thoughts)
        prompt = GENERATION_PROMPT if enable_thinking else _NO_THOUGHT
        pieces = _join([*pieces, Piece(prompt, False, len(messages) - 1)])
        return [i for piece in pieces for i in self.encode(piece.text)]

    def extend(self, messages: Sequence[Message]) -> list[int]:
        """Token ids to append after a sampled turn: tool results or a user message."""
        text = "".join(piece.text for piece in _incoming(messages, 0)) + GENERATION_PROMPT
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a stretch of text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def parse(
        self, token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Turn the sampled ids of one assistant turn into a message."""
        return parse_turn(self.tokenizer.decode(list(token_ids), skip_special_tokens=False), tools)

    def pieces(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        keep_thoughts: bool = True,
    ) -> list[Piece]:
        """Split a conversation into what a model wrote and what it was given.

        Without `keep_thoughts`, thoughts before the last user message are dropped, as the released
        template does by default (`save_history_reasoning_content=False`); those of the tool loop
        that is going on stay.
        """
        last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=0)
        pieces = [Piece(self._declaration(tools), False, 0)] if tools else []
        place = 0
        while place < len(messages):
            if messages[place]["role"] == "assistant":
                with_thought = keep_thoughts or place > last_user
                prompt = GENERATION_PROMPT if with_thought else _DROPPED
                turn = render_turn(messages[place], with_thought=with_thought)
                pieces += [Piece(prompt, False, place), Piece(turn, True, place)]
                place += 1
                continue
            end = place
            while end < len(messages) and messages[end]["role"] != "assistant":
                end += 1
            pieces += _incoming(messages[place:end], place)
            place = end
        return _join(pieces)

    def _declaration(self, tools: Sequence[Mapping[str, Any]]) -> str:
        functions = [tool["function"] for tool in tools]
        if self.declare == "brief":
            body = "\n".join(function["name"] for function in functions)
            return f"<longcat_tool_declare>\n{body}\n</longcat_tool_declare>"
        body = "".join(
            f"### Tool name: {f['name']}\nDescription: {f.get('description') or ''}\n\n"
            f"InputSchema: {json.dumps(f.get('parameters') or _NO_PARAMETERS, ensure_ascii=False)}"
            "\n\n"
            for f in functions
        )
        return (
            "<longcat_tool_declare>\n# Tools\nYou have access to the following tools:\n\n"
            f"## Tool namespace: function\n\n{body}{NOTE}</longcat_tool_declare>"
        )


def _join(pieces: list[Piece]) -> list[Piece]:
    """Merge neighbours that were both given, so that they are tokenised as one stretch."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and not joined[-1].is_sampled and not piece.is_sampled:
            joined[-1] = Piece(joined[-1].text + piece.text, False, piece.message)
        else:
            joined.append(piece)
    return joined


def _incoming(messages: Sequence[Message], offset: int) -> list[Piece]:
    text = ""
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "system":
            text += f"<longcat_system>{content}"
        elif role == "user":
            text += f"<longcat_user>{content}"
        elif role == "tool":
            name = message.get("name", "")
            text += (
                f"<longcat_observation><longcat_tool_response>{name}\n{content}"
                "</longcat_tool_response>"
            )
        else:
            raise ValueError(f"role must be system, user, assistant or tool, got {role!r}")
    return [Piece(text, False, offset + len(messages) - 1)]


def render_turn(message: Message, *, with_thought: bool = True) -> str:
    """Render what an assistant writes after the generation prompt, end of turn included."""
    thought = message.get("reasoning_content") or ""
    text = f"{thought}\n</longcat_think>\n" if with_thought else ""
    text += message.get("content") or ""
    for call in message.get("tool_calls") or ():
        text += _render_call(call["function"])
    return text + EOS


def _render_call(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    text = f"<longcat_tool_call>{function['name']}\n"
    for key, value in arguments.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text += f"<longcat_arg_key>{key}</longcat_arg_key>\n"
        text += f"<longcat_arg_value>{shown}</longcat_arg_value>\n"
    return text + "</longcat_tool_call>\n"


def parse_turn(
    text: str,
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    callable_names: Collection[str] | None = None,
) -> dict[str, Any]:
    """Parse an assistant turn (without the generation prompt) into an OpenAI message.

    Never raises: what is no whole tool call stays content, and the message's `malformed` says why.

    Args:
        text: What was sampled.
        tools: Whose parameters' types say what a value is; tools that are no such thing say
            nothing.
        callable_names: Calls of other tools stay content; all are calls when absent.
    """
    text = text.removesuffix(EOS)
    thought, closed, rest = text.partition("</longcat_think>")
    if not closed:
        thought, rest = "", text
    said, calls, reasons = _read_calls(rest, tools, callable_names)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.removeprefix("\n") if closed else said,
        "reasoning_content": thought.removesuffix("\n"),
    }
    if calls:
        message["tool_calls"] = calls
    if reasons:
        message["malformed"] = "; ".join(reasons)
    return message


def _read_calls(
    text: str, tools: Sequence[Mapping[str, Any]], callable_names: Collection[str] | None
) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Return what is content, the calls, and why others are none."""
    types = parameter_types(tools)
    content: list[str] = []
    calls: list[dict[str, Any]] = []
    reasons: list[str] = []
    for piece, inside in _cut(text, _CALL):
        if inside is None:
            content.append(piece)
            continue
        name, _, body = inside.partition("\n")
        name = name.strip()
        arguments, outside = _arguments(body)
        why = _why_malformed(name, outside, callable_names)
        if why:
            reasons.append(why)
            content.append(piece)
            continue
        values = {key: read_value(raw, types.get((name, key))) for key, raw in arguments}
        function = {"name": name, "arguments": json.dumps(values, ensure_ascii=False)}
        calls.append({"id": f"call_{len(calls)}", "type": "function", "function": function})
    said = "".join(content)
    if _CALL[0] in said and not reasons:
        reasons.append("a tool call was begun and not closed")
    return said, calls, reasons


def _cut(text: str, marks: tuple[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield stretches between a pair of marks with what is inside, and those outside with None.

    In time that grows with the text alone, however many marks stand in it.
    """
    place = 0
    while True:
        begin = text.find(marks[0], place)
        end = -1 if begin < 0 else text.find(marks[1], begin)
        if end < 0:
            yield text[place:], None
            return
        yield text[place:begin], None
        after = end + len(marks[1])
        after += text.startswith("\n", after)
        yield text[begin:after], text[begin + len(marks[0]) : end]
        place = after


def _arguments(body: str) -> tuple[list[tuple[str, str]], str]:
    """Return keys with their values' text, and what stands outside of both."""
    found: list[tuple[str, str]] = []
    outside: list[str] = []
    key: str | None = None
    place = 0
    while place < len(body):
        marks = _KEY if key is None else _VALUE
        begin = body.find(marks[0], place)
        end = -1 if begin < 0 else body.find(marks[1], begin)
        if end < 0:
            break
        outside.append(body[place:begin])
        inside = body[begin + len(marks[0]) : end]
        if key is None:
            key = inside
        else:
            found.append((key, inside))
            key = None
        place = end + len(marks[1])
    outside += [body[place:], "" if key is None else key or "?"]
    return found, "".join(outside).strip()


def _why_malformed(name: str, outside: str, callable_names: Collection[str] | None) -> str:
    if not name or "<" in name:
        return "a tool call must begin with the tool's name"
    if outside:
        return f"the call of {name} holds text outside its arguments"
    if callable_names is not None and name not in callable_names:
        return f"no tool {name} is offered"
    return ""
