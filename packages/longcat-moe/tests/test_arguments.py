"""What an argument's text is under a schema, and that no text and no schema raises."""

import json
import random
import time

import pytest
from longcat_moe import parse_turn
from longcat_moe._arguments import kinds_of

STRING_OR_NULL = [
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"oneOf": [{"type": "null"}, {"type": "string"}]},
    {"anyOf": [{"$ref": "#/$defs/name"}, {"type": "null"}]},
    {"enum": ["123", "x", None]},
    {"allOf": [{"type": ["string", "null", "integer"]}, {"type": ["string", "null"]}]},
]
STRING = [
    {"type": "string"}, {"type": ["string"]}, {"$ref": "#/$defs/name"}, {"const": "123"},
    {"enum": ["123", "456"]}, {"type": ["string", "integer"], "enum": ["123"]},
]  # fmt: skip


def _tool(schema, **more):
    parameters = {
        "type": "object", "properties": {"a": schema}, "$defs": {"name": {"type": "string"}},
        **more,
    }  # fmt: skip
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def _value(raw, schema):
    text = (
        "</longcat_think>\n<longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>\n"
        f"<longcat_arg_value>{raw}</longcat_arg_value>\n</longcat_tool_call>\n"
    )
    (call,) = parse_turn(text, [_tool(schema)])["tool_calls"]
    return json.loads(call["function"]["arguments"], parse_constant=pytest.fail)["a"]


@pytest.mark.parametrize("schema", STRING_OR_NULL + STRING)
@pytest.mark.parametrize("raw", ["123", "1.5", "true", "[1]", '{"b": 1}', "x", "", '"quoted"'])
def test_where_a_string_may_stand_text_is_a_string(schema, raw):
    if raw == '"quoted"' and schema in STRING_OR_NULL:
        assert _value(raw, schema) == "quoted"  # JSON for a string, where JSON may stand
    else:
        assert _value(raw, schema) == raw


@pytest.mark.parametrize("schema", STRING_OR_NULL)
def test_null_is_null_where_that_is_allowed(schema):
    assert _value("null", schema) is None


@pytest.mark.parametrize(
    ("raw", "schema", "value"),
    [
        ("123", {"type": ["string", "integer"]}, 123),
        ("1.5", {"type": ["string", "integer"]}, "1.5"),
        ("1.5", {"type": ["string", "number"]}, 1.5),
        ("2", {"type": ["string", "number"]}, 2),
        ("123", {"type": "integer"}, 123),
        ("abc", {"type": "integer"}, "abc"),
        ("True", {"type": "boolean"}, True),
        ("[1, 'x']", {"type": "array"}, [1, "x"]),
        ("123", {}, 123),
        ("123", True, 123),
        ("null", {"type": "string"}, "null"),
        ("[1]", {"anyOf": [{"type": "string"}, {"type": "array"}]}, [1]),
    ],
)
def test_the_schema_decides_where_text_could_be_two_things(raw, schema, value):
    assert _value(raw, schema) == value


@pytest.mark.parametrize(
    "raw",
    [
        "...", "{1, 2}", "b'x'", "1j", "(1, 2)", "1, 2", "{1: 2}", "NaN", "Infinity", "-Infinity",
        "1e999", "-1e999", "[NaN]", "[1e999]", '{"b": NaN}', "9" * 5000, "0x" + "f" * 5000,
        "[" * 100_000, "{" * 100_000, "-" * 100_000, "'\\ud800' + 1", "\x00", "set()", "None,",
        "{'a': ...}", "[{1}]", "__import__('os')", "((" * 5000, "1" + "+1" * 9000, "'\\N{x}'",
    ],
)  # fmt: skip
@pytest.mark.parametrize("schema", [{}, {"type": "integer"}, {"type": "object"}])
def test_what_json_cannot_say_stays_text(raw, schema):
    assert _value(raw, schema) == raw


_ODD = [
    None, 5, "x", [], {}, [None], [5], ["x"], [{}], [[]], {"function": None}, True,
    [{"function": None}], [{"function": {}}], [{"function": {"name": "f"}}],
    [{"function": {"name": 5, "parameters": {}}}], [{"function": {"name": "f",
    "parameters": None}}],
    [{"function": {"name": "f", "parameters": []}}],
    [{"function": {"name": "f", "parameters": {"properties": None}}}],
    [{"function": {"name": "f", "parameters": {"properties": [1]}}}],
    *([_tool(schema)] for schema in (
        None, True, False, 5, "string", [], {"type": None}, {"type": 5}, {"type": ["x", 5, None]},
        {"type": {}}, {"anyOf": None}, {"anyOf": []}, {"anyOf": [None, 5]}, {"oneOf": {}},
        {"enum": 5},
        {"enum": [[], {}]}, {"$ref": 5}, {"$ref": "#/$defs/none"}, {"$ref": "#"}, {"allOf": [True]},
        {"$ref": "http://x/y"}, {"$ref": "#/properties/a"},
        {"anyOf": [{"$ref": "#/properties/a"}] * 3},
        {"const": float("nan")}, {"type": "string", "enum": []},
    )),
]  # fmt: skip


@pytest.mark.parametrize("tools", _ODD)
def test_tools_that_are_none_say_nothing(tools):
    text = (
        "</longcat_think><longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>"
        "<longcat_arg_value>12</longcat_arg_value></longcat_tool_call>"
    )
    message = parse_turn(text, tools)
    assert json.loads(message["tool_calls"][0]["function"]["arguments"])["a"] in (12, "12")


def test_a_schema_that_refers_to_itself_ends():
    schema = {"anyOf": [{"$ref": "#/properties/a"}, {"type": "null"}]}
    assert kinds_of(schema, {"properties": {"a": schema}}) == frozenset()


@pytest.mark.parametrize("key", ["anyOf", "oneOf", "allOf"])
def test_time_grows_with_the_schema_alone(key):
    """Without what was found before, 2,000 alternatives of themselves are 2,000 ** 4 ways."""
    schema = {key: [{"$ref": "#/properties/a"}] * 2000}
    named = {key: [{"$ref": "#/$defs/b"}] * 2000}
    many = {f"p{i}": {"$ref": "#/properties/a"} for i in range(2000)}
    defs = {"b": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
    tool = _tool(schema, properties={"a": schema, "b": named, **many}, **{"$defs": defs})
    began = time.process_time()
    message = parse_turn(
        "</longcat_think><longcat_tool_call>f\n<longcat_arg_key>b</longcat_arg_key>"
        "<longcat_arg_value>12</longcat_arg_value></longcat_tool_call>",
        [tool],
    )
    assert time.process_time() - began < 2
    arguments = message["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"b": "12"}  # the types are still looked up


def test_only_what_may_be_called_is_a_call():
    text = "</longcat_think>\nhm <longcat_tool_call>f\n</longcat_tool_call>"
    assert parse_turn(text, callable_names=["f"])["tool_calls"][0]["function"]["name"] == "f"
    message = parse_turn(text, callable_names=[])
    assert message["content"] == text.partition("\n")[2]
    assert message["malformed"] == "no tool f is offered"
    assert "tool_calls" not in message


@pytest.mark.parametrize(
    "body",
    ["<longcat_tool_call>" * 20_000, "<longcat_arg_key>" * 20_000,
    "<longcat_arg_key>a</longcat_arg_key>" * 9000,
     "<longcat_tool_call></longcat_tool_call>" * 9000, "</longcat_arg_value>" * 20_000],
)  # fmt: skip
def test_time_grows_with_the_text_alone(body):
    began = time.process_time()
    parse_turn(f"<longcat_tool_call>f\n{body}</longcat_tool_call>")
    assert time.process_time() - began < 2


_SHARDS = [
    "<longcat_tool_call>", "</longcat_tool_call>", "<longcat_arg_key>", "</longcat_arg_key>",
    "<longcat_arg_value>", "</longcat_arg_value>", "</longcat_think>", "<longcat_think>", "f", "\n",
    "a", "{", "}", "[", "]", "(", ")", ",", ":", "...", "1", "2e9", "e", "NaN", "None", "True", "'",
    '"', "\\", "\\x", "\\ud800", "\ud800", "\udfff", "é", "\x00", "</longcat_s>", " ", "-", "*",
    "lambda",
    "b'", "1j", "null", "\u2028", "0x", "_", "=", "//", "#", "f'{", "\U0001f600", "\r",
]  # fmt: skip


def _fuzz(num, seed):
    rng = random.Random(seed)
    for _ in range(num):
        body = "".join(rng.choices(_SHARDS, k=rng.randrange(1, 30)))
        if rng.random() < 0.7:
            body = (
                "<longcat_tool_call>f\n<longcat_arg_key>a</longcat_arg_key>"
                f"<longcat_arg_value>{body}"
                "</longcat_arg_value></longcat_tool_call>"
            )
        tools = (
            rng.choice(_ODD) if rng.random() < 0.5 else [_tool(rng.choice(STRING_OR_NULL + STRING))]
        )
        names = rng.choice([None, [], ["f"]])
        message = parse_turn(body, tools, callable_names=names)
        json.dumps(message, allow_nan=False)
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"], parse_constant=pytest.fail)
            assert names != []


def test_three_thousand_fuzzed_texts_never_raise():
    _fuzz(3000, seed=0)


@pytest.mark.long
def test_a_hundred_thousand_fuzzed_texts_never_raise():
    _fuzz(100_000, seed=1)
