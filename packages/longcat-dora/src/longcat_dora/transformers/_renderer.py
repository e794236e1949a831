"""Chat templates of transformers as a `Renderer`.

Conversations that only grow, and tools by the model's own way.

- What follows a sampled turn is what the template writes after the end of an assistant's turn.
- A template that knows no tools is helped: they are described in the system message, calls are
  written as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` and results as
  `<tool_response>`, as Hermes and Qwen do.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from longcat_dora import LongcatDoraError

_MARK = "LONGCATMARK"
_TOOL = {"type": "function", "function": {"name": _MARK, "description": "", "parameters": {
    "type": "object", "properties": {}}}}  # fmt: skip
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_LISTED = re.compile(r"\[TOOL_CALLS\]\s*(\[.*\])", re.DOTALL)
_BARE = re.compile(r"\s*(?:<\|python_tag\|>)?\s*(\{.*\})\s*", re.DOTALL)
_HERMES = """# Tools

You may call functions. Each is described by its signature:
<tools>
{tools}
</tools>
For each call, return a JSON object with the function's name and arguments within these tags:
<tool_call>
{{"name": <name>, "arguments": <arguments>}}
</tool_call>"""


class TransformersRenderer:
    """Implements `Renderer` with a tokenizer's chat template.

    Args:
        tokenizer: Of transformers, with a chat template.
        stop_token_ids: That end an assistant's turn, beside the tokenizer's end of sequence.
        options: Of the template, such as `enable_thinking`.

    Raises:
        LongcatDoraError: There is no template, or it does not end a turn with a stop token.
    """

    def __init__(
        self, tokenizer: Any, *, stop_token_ids: Sequence[int] = (), **options: Any
    ) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise LongcatDoraError("the tokenizer must have a chat template, it has none")
        self.tokenizer, self.options = tokenizer, options
        ends = {*stop_token_ids, tokenizer.eos_token_id} - {None}
        self._stops: list[str] = tokenizer.convert_ids_to_tokens(sorted(ends))
        self._after([{"role": "user", "content": "x"}])  # it fails here rather than in a rollout

    @functools.cached_property
    def knows_tools(self) -> bool:
        """Whether the template describes tools by itself."""
        return _MARK in self._text([{"role": "user", "content": "x"}], [_TOOL])

    # -- Renderer ----------------------------------------------------------------------------

    def start(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        """See `Renderer`."""
        return self._ids(self._text(*self.written(messages, tools), speaks=True))

    def written(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]]]:
        """Return a conversation and its tools as the template can write them.

        As they are, or with calls and results in words and the tools in the system message.
        """
        said = [_plain(message) for message in messages]
        if tools and not self.knows_tools:
            listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            text, tools = _HERMES.format(tools=listed), ()
            if said and said[0]["role"] == "system":
                said[0] = {**said[0], "content": f"{said[0]['content']}\n\n{text}"}
            else:
                said.insert(0, {"role": "system", "content": text})
        return self._known(said), list(tools)

    def extend(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """See `Renderer`. The sampled turn is taken to have ended with a stop token."""
        return self._ids(self._after([_plain(message) for message in messages]))

    def parse(self, token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `Renderer`. Calls that are no JSON stay text."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        for stop in self._stops:
            text = text.removesuffix(stop)
        message: dict[str, Any] = {"role": "assistant"}
        thought, closed, rest = text.partition("</think>")
        if closed:
            text = rest.lstrip("\n")
            message["reasoning_content"] = thought.replace("<think>", "", 1).strip("\n")
        calls, text = _calls(text) if tools else ([], text)
        message["content"] = text.strip() if calls else text
        if calls:
            message["tool_calls"] = calls
        return message

    # -- parts -------------------------------------------------------------------------------

    def _text(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (),
        *, speaks: bool = False,
    ) -> str:  # fmt: skip
        return self.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, tokenize=False,
            add_generation_prompt=speaks, **self.options,
        )  # fmt: skip

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _known(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages as a template without tools can write them."""
        if self.knows_tools:
            return list(messages)
        said: list[dict[str, Any]] = []
        for message in messages:
            if message["role"] == "tool":
                content = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
                said.append({"role": "user", "content": content})
            elif calls := message.get("tool_calls"):
                bare = [call.get("function", call) for call in calls]
                told = [
                    json.dumps({"name": c["name"], "arguments": c.get("arguments", {})})
                    for c in bare
                ]
                text = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in told)
                content = "\n".join(part for part in (message.get("content"), text) if part)
                said.append({"role": message["role"], "content": content})
            else:
                said.append({**message, "content": message.get("content") or ""})
        return said

    def _after(self, messages: Sequence[dict[str, Any]]) -> str:
        """What the template writes from the end of an assistant's turn on."""
        turn: dict[str, Any] = {"role": "assistant", "content": _MARK}
        answered = [m for m in messages if m["role"] == "tool"]
        if answered and self.knows_tools:
            turn["tool_calls"] = [
                {"type": "function", "id": m.get("tool_call_id") or f"call-{n}",
                 "function": {"name": m.get("name") or "f", "arguments": {}}}
                for n, m in enumerate(answered)
            ]  # fmt: skip
        dummy = [{"role": "user", "content": "x"}, turn]
        text = self._text([*dummy, *self._known(messages)], speaks=True)
        rest = text[text.index(_MARK) :]
        found = [(rest.index(stop), stop) for stop in self._stops if stop in rest]
        if not found:
            raise LongcatDoraError(
                f"the chat template must end an assistant's turn with one of {self._stops}; give "
                "stop_token_ids"
            )
        begin, stop = min(found)
        return rest[begin + len(stop) :]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates like messages: arguments as objects, text in one piece."""
    found = dict(message)
    if isinstance(found.get("content"), list):
        found["content"] = "".join(part.get("text", "") for part in found["content"])
    if calls := found.get("tool_calls"):
        found["tool_calls"] = [_plain_call(call) for call in calls]
    return found


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function", call))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments)
        except ValueError:
            function["arguments"] = {"arguments": arguments}
    return {
        "type": "function",
        **{k: v for k, v in call.items() if k == "id"},
        "function": function,
    }


def _calls(text: str) -> tuple[list[dict[str, Any]], str]:
    """Tool calls of an answer, and what was said beside them."""
    for pattern in (_CALL, _LISTED, _BARE):
        written = pattern.findall(text) if pattern is not _BARE else _whole(text)
        calls: list[dict[str, Any]] = []
        for part in written:
            try:
                found = json.loads(part)
            except ValueError:
                break
            for one in found if isinstance(found, list) else [found]:
                arguments = (
                    one.get("arguments", one.get("parameters", {}))
                    if isinstance(one, dict)
                    else None
                )
                if not isinstance(arguments, dict) or not isinstance(one.get("name"), str):
                    return [], text
                function = {"name": one["name"], "arguments": arguments}
                calls.append({"type": "function", "function": function})
        if calls:
            return calls, "" if pattern is _BARE else pattern.sub("", text)
    return [], text


def _whole(text: str) -> list[str]:
    match = _BARE.fullmatch(text)
    return [match.group(1)] if match else []
