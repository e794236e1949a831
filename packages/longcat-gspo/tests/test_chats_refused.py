"""Chats, tools and rewards that are none, and folders without a tokenizer."""

from types import SimpleNamespace

import pytest

transformers = pytest.importorskip("transformers")
from longcat_gspo.transformers import (  # noqa: E402
    _read,
    _reward,
    chat_sample,
    check_chat,
)

ASK, TELL = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
REFUSED = [
    ({"tools": "x"}, "tools must be a list of objects, got 'x'"),
    ({"tools": {"a": 1}}, "tools must be a list of objects, got {'a': 1}"),
    ({"tools": [3]}, "tool 0 must be an object with a function, got 3"),
    ({"tools": [{"name": "f"}, {"function": "f"}]}, "tool 1 must be an object"),
    ({"tool_calls": "x"}, "message 1: tool_calls must be a list, got 'x'"),
    ({"tool_calls": 5}, "message 1: tool_calls must be a list, got 5"),
    ({"tool_calls": [5]}, "message 1: a tool call must be an object with .* name, got 5"),
    ({"tool_calls": [{"function": "f"}]}, "message 1: a tool call must be an object"),
    ({"tool_calls": [{"function": {"arguments": {}}}]}, "message 1: a tool call must be"),
    ({"content": [5]}, "message 1: parts of its content must be objects with text, got 5"),
    ({"content": [{"type": "text", "text": "a"}, {"type": "image"}]}, "got {'type': 'image'}"),
    ({"content": [{"type": "image_url", "text": "a"}]}, "message 1: parts of its content must be"),
    ({"content": [{"type": "text"}]}, "message 1: parts of its content must be objects with text"),
    ({"content": [{"text": 5}]}, "message 1: parts of its content must be objects with text"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_what_a_template_would_pass_over_is_refused(changes, said):
    """They were silently left out, and the rest was trained on."""
    writes_roles = SimpleNamespace(
        chat_template="roles", apply_chat_template=lambda messages, **_: str(len(messages))
    )
    tools = changes.get("tools", ())
    chat = [ASK, {**TELL, **{k: v for k, v in changes.items() if k != "tools"}}]
    for check in (check_chat, lambda *given: chat_sample(writes_roles, given[0], tools=given[1])):
        with pytest.raises(ValueError, match=said):
            check(chat, tools)


def test_calls_and_tools_may_be_bare_or_functions_of_python():
    def look(at):
        """Look."""

    call = {"name": "look", "arguments": {}}
    chat = [{**ASK, "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
            {"role": "assistant", "tool_calls": [call, {"function": call}]},
            {**TELL, "tool_calls": None}]  # fmt: skip
    check_chat(chat, [look, {"name": "look"}, {"function": {"name": "look"}}, {"type": "web"}])


@pytest.mark.parametrize("value", ["1.0", b"1.0", " 1 "])
def test_a_text_is_no_reward_however_it_looks(value):
    """`longcat rl` refuses it too."""
    with pytest.raises(ValueError, match="the reward mine must return a finite number, got"):
        _reward(_named(value), {}, "yes")


def _named(value):
    def mine(task, answer):
        return value

    return mine


def test_a_reason_that_ends_with_a_colon_goes_on(tmp_path):
    with pytest.raises(
        ValueError, match=r"cannot be read: .* one of: \(1\) a `tokenizers`"
    ) as found:
        _read(str(tmp_path), "tokenizer", _needs_one_of)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < len(str(tmp_path)) + 300

    def fails(name):
        raise RuntimeError("broken\nat x")

    with pytest.raises(ValueError, match=r"cannot be read: broken$"):
        _read("m", "model", fails)


def _needs_one_of(name):
    raise ValueError("Couldn't instantiate it from one of: \n(1) a `tokenizers` file, \n" * 9)
