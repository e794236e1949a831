"""The chat format: what is rendered can be read back, and growing equals rendering at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_moe import ChatFormat, parse_turn, render_turn, save_tokenizer, train_tokenizer

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


# -- properties ------------------------------------------------------------------------------

# Markers themselves cannot be said inside a turn: they are what ends it.
_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda text: "longcat_" not in text
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner | _TEXT, max_size=3) | st.dictionaries(_TEXT, inner | _TEXT, max_size=3)
    ),
    max_leaves=6,
)
_ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "name": _TEXT,
        "count": st.integers(),
        "tags": st.lists(_JSON, max_size=3),
        "more": st.dictionaries(_TEXT, _JSON, max_size=3),
    },
)


@given(
    thought=_TEXT,
    content=_TEXT,
    calls=st.lists(_ARGUMENTS, max_size=3),
)
def test_parse_inverts_render_whatever_is_said(thought, content, calls):
    message = {"role": "assistant", "content": content, "reasoning_content": thought}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {
                    "name": "find",
                    "arguments": json.dumps(arguments, ensure_ascii=False),
                },
            }
            for i, arguments in enumerate(calls)
        ]
    assert parse_turn(render_turn(message), TOOLS) == message


_SHARDS = st.sampled_from(
    ["<longcat_tool_call>", "</longcat_tool_call>", "<longcat_arg_key>", "</longcat_arg_key>",
     "<longcat_arg_value>", "</longcat_arg_value>", "</longcat_think>", "<longcat_think>", "find",
     "\n", "name", "{", "3", "</longcat_s>", "é", "\u0000"]
)  # fmt: skip


@given(st.lists(_SHARDS | _TEXT, max_size=16).map("".join))
def test_no_output_of_a_model_raises_and_a_broken_call_has_a_reason(text):
    message = parse_turn(text, TOOLS)
    json.dumps(message)
    for call in message.get("tool_calls", []):
        json.loads(call["function"]["arguments"])
    has_begun = "<longcat_tool_call>" in message["content"]
    assert ("malformed" in message) == has_begun


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<longcat_tool_call>find", "begun and not closed"),
        ("<longcat_tool_call>\n</longcat_tool_call>", "begin with the tool's name"),
        ("<longcat_tool_call>find\nAda\n</longcat_tool_call>", "find holds text outside"),
    ],
)
def test_a_broken_call_stays_content_and_says_why(text, reason):
    message = parse_turn(f"hm\n</longcat_think>\n{text}", TOOLS)
    assert message["content"] == text
    assert reason in message["malformed"]
    assert "tool_calls" not in message


# -- thoughts, kept and dropped --------------------------------------------------------------

TALK = [
    {"role": "user", "content": "find Ada"},
    _assistant({"name": "Ada"}, thought="first"),
    {"role": "tool", "name": "find", "content": "{}"},
    {"role": "assistant", "content": "Here.", "reasoning_content": "second"},
    {"role": "user", "content": "and Berg"},
    _assistant({"name": "Berg"}, thought="third"),
    {"role": "tool", "name": "find", "content": "{}"},
]


def test_thoughts_of_earlier_turns_are_dropped_and_those_of_this_loop_stay(tokenizer):
    fmt = ChatFormat(tokenizer)
    kept = "".join(piece.text for piece in fmt.pieces(TALK, TOOLS))
    dropped = "".join(piece.text for piece in fmt.pieces(TALK, TOOLS, keep_thoughts=False))
    assert all(thought in kept for thought in ("first", "second", "third"))
    assert "first" not in dropped
    assert "second" not in dropped
    assert "third" in dropped
    assert "Here." in dropped
    assert dropped.count("<longcat_arg_value>") == kept.count("<longcat_arg_value>") == 3


@pytest.mark.parametrize("declare", ["full", "brief"])
@pytest.mark.parametrize("tools", [[], TOOLS])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("thinking", [True, False])
def test_other_tools_render_the_same_bytes(tokenizer, tmp_path, declare, tools, keep, thinking):
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path, declare=declare)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    fmt = ChatFormat(tokenizer, declare=declare)
    talk = json.loads(json.dumps([{"role": "system", "content": "Be exact: é <b>."}, *TALK]))
    for message in talk:
        for call in message.get("tool_calls", []):  # a Jinja template cannot read JSON
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    got = theirs.apply_chat_template(
        talk, tools=tools or None, add_generation_prompt=True, return_dict=False,
        enable_thinking=thinking, save_history_reasoning_content=keep,
    )  # fmt: skip
    ours = fmt.start(talk, tools, enable_thinking=thinking, keep_thoughts=keep)
    assert theirs.decode(got) == tokenizer.decode(ours, skip_special_tokens=False)
    if keep:  # dropped or not, the ids are the same wherever stretches are
        assert got == ours
    text = theirs.apply_chat_template(talk, tools=tools or None, tokenize=False)
    pieces = fmt.pieces(talk, tools, keep_thoughts=False)
    assert text == "".join(piece.text for piece in pieces)


def test_the_readme_s_example_is_rendered_byte_for_byte(tokenizer):
    """The layout of the released sample trajectory (papers, section 4.1)."""
    tool = {"type": "function", "function": {
        "name": "search", "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}}}  # fmt: skip
    pieces = ChatFormat(tokenizer).pieces(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], [tool]
    )
    text = "".join(piece.text for piece in pieces)
    assert text.startswith(
        "<longcat_tool_declare>\n# Tools\nYou have access to the following tools:\n\n"
        "## Tool namespace: function\n\n### Tool name: search\nDescription: Look it up.\n\n"
        'InputSchema: {"type": "object", "properties": {"query": {"type": "string"}}}\n\n**Note**: '
    )
    assert text.endswith("\n</longcat_tool_declare><longcat_system>S<longcat_user>U")
