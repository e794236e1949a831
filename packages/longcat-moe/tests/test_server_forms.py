"""Answers of a given form: JSON by schema, forced and named calls; and what nobody offered."""

import json

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

ASK = [{"role": "user", "content": "find the book of Ada"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["book", "page"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_new": {"type": "boolean"},
        "size": {"anyOf": [{"type": "null"}, {"const": 3}]},
        "tag": {"type": "string", "maxLength": 4},
    },
    "required": ["kind", "count", "is_new", "size", "tag"],
    "additionalProperties": False,
}


def _tool(name, properties, required=()):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    _tool("find", {"kind": {"type": "string", "enum": ["book", "page 2"]},
    "count": {"type": "integer",
        "minimum": 1, "maximum": 9}}, ["kind", "count"]),
    _tool("close", {}),
]  # fmt: skip


def _is_right(answer):
    value = json.loads(answer)
    assert set(value) == set(SCHEMA["required"])
    assert value["kind"] in ("book", "page")
    assert type(value["count"]) is int
    assert 0 <= value["count"] <= 99
    assert type(value["is_new"]) is bool
    assert value["size"] in (None, 3)
    assert len(value["tag"]) <= 4
    return True


def _form(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_random_model_says_json_of_the_schema(client, temperature, seed):
    got = client.chat.completions.create(
        model="tiny", messages=ASK, response_format=_form(SCHEMA), max_tokens=200,
        temperature=temperature, seed=seed, n=2,
    )  # fmt: skip
    for choice in got.choices:
        assert choice.finish_reason == "stop"
        assert _is_right(choice.message.content)


def test_a_stream_of_json_adds_up_to_the_whole(client):
    options = {
        "model": "tiny", "messages": ASK, "response_format": _form(SCHEMA), "max_tokens": 200,
        "seed": 3,
    }  # fmt: skip
    whole = client.chat.completions.create(**options).choices[0].message.content
    parts = client.chat.completions.create(**options, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in parts) == whole
    assert _is_right(whole)


def test_the_client_s_own_parser_reads_it(client):
    pydantic = pytest.importorskip("pydantic")

    class Found(pydantic.BaseModel):
        is_new: bool
        count: int | None

    got = client.chat.completions.parse(
        model="tiny", messages=ASK, response_format=Found, max_tokens=100, seed=1
    )
    assert isinstance(got.choices[0].message.parsed, Found)


def test_json_object_is_an_object_as_far_as_it_goes(client):
    for seed in range(4):
        got = client.chat.completions.create(
            model="tiny",
            messages=ASK,
            response_format={"type": "json_object"},
            max_tokens=150,
            seed=seed,
        )
        text, reason = got.choices[0].message.content, got.choices[0].finish_reason
        assert text.startswith("{")
        if reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_a_thought_comes_first_where_that_is_asked_for(client, tokenizer):
    end = tokenizer.token_to_id("</longcat_think>")
    got = client.chat.completions.create(
        model="tiny", messages=ASK, response_format=_form(SCHEMA), max_tokens=300, seed=0,
        logit_bias={str(end): 12},
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    ).choices[0].message  # fmt: skip
    assert _is_right(got.content)
    assert got.reasoning_content is not None


@pytest.mark.parametrize("seed", range(6))
def test_a_named_tool_is_called_once_with_right_arguments(client, seed):
    got = client.chat.completions.create(
        model="tiny", messages=ASK, tools=TOOLS, max_tokens=80, seed=seed,
        tool_choice={"type": "function", "function": {"name": "find"}},
    ).choices[0]  # fmt: skip
    (call,) = got.message.tool_calls
    assert got.finish_reason == "tool_calls"
    assert call.function.name == "find"
    arguments = json.loads(call.function.arguments)
    assert arguments["kind"] in ("book", "page 2")
    assert 1 <= arguments["count"] <= 9
    assert got.message.content is None


def test_required_calls_one_of_the_tools(client):
    names = set()
    for seed in range(8):
        got = client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS, max_tokens=80, seed=seed,
            tool_choice="required",
            parallel_tool_calls=False,
        ).choices[0].message  # fmt: skip
        (call,) = got.tool_calls
        names.add(call.function.name)
    assert names <= {"find", "close"}


@pytest.mark.parametrize("name", ['a"b', "é", "😀", "a\\b", "a/b.c-d"])
def test_any_name_is_called_as_it_is_spelt(client, tokenizer, name):
    """What is required and not described may be anything, and is there."""
    end = tokenizer.token_to_id("</longcat_arg_value>")
    parameters = {"type": "object", "properties": {name: {"enum": [1]}}, "required": ["b", name]}
    tool = {"type": "function", "function": {"name": name, "parameters": parameters}}
    got = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[tool], max_tokens=200, tool_choice="required",
        parallel_tool_calls=False, logit_bias={str(end): 30},
    ).choices[0].message  # fmt: skip
    (call,) = got.tool_calls
    assert call.function.name == name
    arguments = json.loads(call.function.arguments)
    assert arguments[name] == 1
    assert set(arguments) == {name, "b"}


def test_required_may_call_several_unless_that_is_forbidden(client):
    counts = []
    for seed in range(8):
        got = client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS[1:], max_tokens=60, seed=seed,
            tool_choice="required"
        ).choices[0].message  # fmt: skip
        counts.append(len(got.tool_calls))
    assert max(counts) > 1


def test_a_forced_call_streams_as_one(client):
    parts = list(
        client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS, max_tokens=80, seed=1, stream=True, n=2,
            tool_choice={"type": "function", "function": {"name": "find"}},
        )
    )  # fmt: skip
    for index in (0, 1):
        mine = [p.choices[0] for p in parts if p.choices and p.choices[0].index == index]
        (call,) = [call for choice in mine for call in choice.delta.tool_calls or []]
        assert json.loads(call.function.arguments)["count"] in range(1, 10)
        assert mine[-1].finish_reason == "tool_calls"
        assert not any(choice.delta.content for choice in mine)


@pytest.mark.parametrize(
    ("schema", "right"),
    [
        ({"type": "string"}, lambda v: isinstance(v, str)),
        ({"type": ["string", "null"]}, lambda v: v is None or isinstance(v, str)),
        ({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}, lambda v: set(v) <= {1, 2}),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
          "additionalProperties": False}, lambda v: type(v["a"]) is bool),
        ({"$ref": "#/$defs/small"}, lambda v: v in (4, 5)),
        ({"type": "number", "enum": [1.5, 2]}, lambda v: v in (1.5, 2)),
        ({"type": "null"}, lambda v: v is None),
        ({"type": "integer", "minimum": 7, "maximum": 8}, lambda v: v in (7, 8)),
    ],
)  # fmt: skip
def test_arguments_of_every_kind_come_back_as_they_should(client, schema, right):
    tool = _tool("f", {"a": schema}, ["a"])
    tool["function"]["parameters"]["$defs"] = {
        "small": {"type": "integer", "minimum": 4, "maximum": 5}
    }
    for seed in range(3):
        got = client.chat.completions.create(
            model="tiny", messages=ASK, tools=[tool], max_tokens=120, seed=seed,
            logit_bias={"2": 1},
            tool_choice={"type": "function", "function": {"name": "f"}},
        ).choices[0]  # fmt: skip
        if got.finish_reason == "length":  # a random model's text may go on
            continue
        assert right(json.loads(got.message.tool_calls[0].function.arguments)["a"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [None, [_tool("other", {})]])
def test_a_tool_that_nobody_offered_is_not_called(engine, tokenizer, monkeypatch, stream, tools):
    import asyncio

    import httpx
    from longcat_moe import ChatFormat, Engine
    from longcat_moe.engine import Generation, Token
    from longcat_moe.server import create_app

    text = "hm\n</longcat_think>\nWell. <longcat_tool_call>find\n</longcat_tool_call>\n</longcat_s>"
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    async def generate(self, c, prompt, **options):
        return Generation(ids, [0.0] * len(ids), "stop")

    async def stream_ids(self, c, prompt, **options):
        for i in ids:
            yield Token(i, 0.0, "stop" if i == ids[-1] else None)

    monkeypatch.setattr(Engine, "generate", generate)
    monkeypatch.setattr(Engine, "stream", stream_ids)
    app = create_app(engine, ChatFormat(tokenizer), model="tiny")

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            body = {"messages": ASK, "tools": tools, "stream": stream}
            return await web.post("/v1/chat/completions", json=body)

    got = asyncio.run(ask())
    if not stream:
        (choice,) = got.json()["choices"]
        said, reason = choice["message"]["content"], choice["finish_reason"]
        assert "tool_calls" not in choice["message"]
    else:
        lines = [
            json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: {")
        ]
        choices = [line["choices"][0] for line in lines]
        assert not any("tool_calls" in choice["delta"] for choice in choices)
        said = "".join(choice["delta"].get("content") or "" for choice in choices)
        reason = choices[-1]["finish_reason"]
    assert said == "Well. <longcat_tool_call>find\n</longcat_tool_call>\n"
    assert reason == "stop"
