"""Messages and tools of a chat request, checked and in the form that the chat format renders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ._body import STRICT
from ._errors import ApiError, shown

_ROLES = ("system", "user", "assistant", "tool")
_NOT_DONE = ("audio", "function_call")
"""Keys of messages that hold what was said, in forms that are not read."""


def read_messages(value: Any) -> list[dict[str, Any]]:
    """Return messages whose contents are texts.

    Raises:
        ApiError: There is none, or one is not as in OpenAI's API.
    """
    if not isinstance(value, list) or not value:
        raise ApiError("messages must be a list of one message at least", "messages")
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in value:
        found.append(_message(message, names))
    return found


def _message(value: Any, names: dict[str, str]) -> dict[str, Any]:
    if not isinstance(value, dict) or "role" not in value:
        raise _wrong(f"a message must be an object with a role, got {shown(value)}")
    role = "system" if value["role"] == "developer" else value["role"]
    if role not in _ROLES:
        raise _wrong(f"role must be system, user, assistant or tool, got {shown(role)}")
    for key in _NOT_DONE:
        if value.get(key) is not None:
            raise _wrong(f"a message's {key} is not done here, got {shown(value[key])}")
    message: dict[str, Any] = {"role": role, "content": _text(value.get("content"))}
    if role == "assistant":
        thought = value.get("reasoning_content")
        thought = value.get("reasoning") if thought is None else thought
        if thought is not None and not isinstance(thought, str):
            raise _wrong(f"reasoning_content must be text, got {shown(thought)}")
        message["reasoning_content"] = thought or ""
        calls = _calls(value.get("tool_calls"), names)
        if calls:
            message["tool_calls"] = calls
    elif role == "tool":  # clients name the call, not the tool
        call, name = value.get("tool_call_id"), value.get("name")
        if not isinstance(call, str | None) or not isinstance(name, str | None):
            raise _wrong("a tool message must hold texts as tool_call_id and name")
        message["name"] = names.get(call or "", "") if name is None else name
    return message


def _calls(value: Any, names: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if not isinstance(value, list | None):
        raise _wrong(f"tool_calls must be a list, got {shown(value)}")
    for call in value or ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong(f"a tool call must hold a function with a name, got {shown(call)}")
        arguments = _arguments(function.get("arguments"))
        names[str(call.get("id", ""))] = function["name"]
        found.append({"function": {"name": function["name"], "arguments": arguments}})
    return found


def _arguments(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value, **STRICT) if value else {}
            json.dumps(value, ensure_ascii=False).encode()  # half a character is refused too
        except (ValueError, RecursionError):
            raise _wrong(f"arguments must be a JSON object, got {shown(value)}") from None
    if not isinstance(value, dict | None):
        raise _wrong(f"arguments must be a JSON object, got {shown(value)}")
    return value or {}


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise _wrong(f"content must be text, or parts of type 'text', got {shown(part)}")
    return "".join(part["text"] for part in parts)


def _wrong(message: str) -> ApiError:
    return ApiError(message, "messages")


def read_tools(value: Any) -> list[dict[str, Any]]:
    """Return tools whose functions have names and parameters.

    Raises:
        ApiError: One is not as in OpenAI's API.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ApiError(f"tools must be a list, got {shown(value)}", "tools")
    return [{"type": "function", "function": _function(tool)} for tool in value]


def _function(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ApiError(f"a tool must be a function with a name, got {shown(tool)}", "tools")
    if tool.get("type", "function") != "function":
        raise ApiError(f"a tool's type must be 'function', got {shown(tool['type'])}", "tools")
    if not isinstance(function.get("description"), str | None):
        raise ApiError(f"the description of {name} must be text", "tools")
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(parameters, dict) or not isinstance(properties, dict | None):
        raise ApiError(
            f"the parameters of {name} must be a JSON Schema of an object, got {shown(parameters)}",
            "tools",
        )
    if not isinstance(parameters.get("required"), list | None):
        raise ApiError(f"required in the parameters of {name} must be a list", "tools")
    return {**function, "parameters": parameters}


def chosen_tools(choice: Any, tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Return the tools of which one must be called; None where none must.

    Raises:
        ApiError: `tool_choice` is not understood, or names a tool that is not there.
    """
    if choice in (None, "auto", "none"):
        return None
    if choice == "required" and tools:
        return list(tools)
    given: Any = choice if isinstance(choice, dict) else {}
    function = given.get("function") if given.get("type", "function") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not isinstance(name, str) or not named:
        names = ", ".join(tool["function"]["name"] for tool in tools) or "none"
        raise ApiError(
            "tool_choice must be 'none', 'auto', 'required' with tools, or name one of the tools "
            f"({names}), got {shown(choice)}",
            "tool_choice",
        )
    return named
