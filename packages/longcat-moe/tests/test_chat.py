"""The chat format: what is rendered can be read back, and growing equals rendering at once."""

import json

import pytest
from longcat_moe import ChatFormat, parse_turn, render_turn, train_tokenizer

TOOLS = [
    {"type": "function", "function": {
        "name": "find", "description": "Find.", "parameters": {"type": "object", "properties": {
            "name": {"type": "string"}, "count": {"type": "integer"}, "tags": {"type": "array"},
            "more": {"type": "object"}}}}},
]  # fmt: skip


def _assistant(arguments, thought="look", content=""):
    call = {"name": "find", "arguments": json.dumps(arguments)}
    return {
        "role": "assistant", "content": content, "reasoning_content": thought,
        "tool_calls": [{"id": "call_0", "type": "function", "function": call}],
    }  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["find the book of Ada Berg, M4821, quickly"] * 10, vocab_size=400)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "12"},
        {"name": "a b\nc"},
        {"count": 3},
        {"tags": [1, "x"]},
        {"more": {"k": None}},
        {},
    ],
)
def test_parse_inverts_render(arguments):
    message = _assistant(arguments)
    assert parse_turn(render_turn(message), TOOLS) == message


def test_the_released_layout():
    text = render_turn(_assistant({"name": "Ada"}))
    assert text == (
        "look\n</longcat_think>\n<longcat_tool_call>find\n<longcat_arg_key>name</longcat_arg_key>"
        "\n<longcat_arg_value>Ada</longcat_arg_value>\n</longcat_tool_call>\n</longcat_s>"
    )


@pytest.mark.parametrize(
    "text", ["", "no tags", "<longcat_tool_call>find", "a\n</longcat_think>\n"]
)
def test_broken_turns_stay_content(text):
    message = parse_turn(text, TOOLS)
    assert "tool_calls" not in message


@pytest.mark.parametrize("declare", ["full", "brief"])
def test_growing_gives_the_tokens_of_rendering_at_once(tokenizer, declare):
    fmt = ChatFormat(tokenizer, declare=declare)
    start = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "find Ada"}]
    turn = _assistant({"name": "Ada"})
    result = [{"role": "tool", "name": "find", "content": '{"id":"M4821"}'}]
    grown = fmt.start(start, TOOLS) + fmt.encode(render_turn(turn)) + fmt.extend(result)
    pieces = fmt.pieces([*start, turn, *result, turn], TOOLS)
    whole = [i for piece in pieces[:-1] for i in fmt.encode(piece.text)]
    assert grown == whole
    assert [piece.is_sampled for piece in pieces] == [False, True, False, True]
    assert fmt.parse(fmt.encode(pieces[-1].text), TOOLS) == turn


def test_an_id_has_the_same_tokens_everywhere(tokenizer):
    ids = [tokenizer.encode(t).tokens for t in ("of M4821, see", '{"id":"M4821"}')]
    assert ids[0][2:5] == ["M", "48", "21"]
    assert [t for t in ids[1] if t in ids[0]] == ["M", "48", "21"]


@pytest.mark.parametrize("raw", ["5or 3", "0_7x", "[" * 100_000, "{'a': ", "1e999999x"])
def test_values_that_are_no_literals_stay_text_without_a_word(raw):
    text = (
        "</longcat_think>\n<longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>\n"
        f"<longcat_arg_value>{raw}</longcat_arg_value>\n</longcat_tool_call>\n"
    )
    (call,) = parse_turn(text)["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": raw}
