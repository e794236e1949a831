"""What clients send wrongly is one clear answer, and nobody else is hurt."""

import asyncio
import json
import socket
import time

import httpx
import pytest
from longcat_moe import ChatFormat, Engine
from longcat_moe.server import create_app

ASK = [{"role": "user", "content": "find the book"}]
DEEP = "[" * 50_000 + "]" * 50_000


def _tool(**function):
    return [{"type": "function", "function": {"name": "find", **function}}]


ENDLESS = [
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"],
     "additionalProperties": False},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"],
     "additionalProperties": False},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    {"anyOf": [{"type": "object", "properties": {f"k{i}": {"type": "string", "maxLength": i}}}
               for i in range(500)]},
]  # fmt: skip
"""Schemas that compile, and that no answer follows to its end."""


CHAT = [
    ("parameters", {"tools": _tool(parameters=None)}),
    ("parameters", {"tools": _tool(parameters=[])}),
    ("parameters", {"tools": _tool(parameters={"properties": [1]})}),
    ("required", {"tools": _tool(parameters={"required": 5})}),
    ("description", {"tools": _tool(description=5)}),
    ("tools must be a list", {"tools": 5}),
    ("tools must be a list", {"tools": {"find": {}}}),
    ("tool must be a function", {"tools": [None]}),
    ("tool must be a function", {"tools": [{"type": "function", "function": {"name": 5}}]}),
    ("'function'", {"tools": [{"type": "web", "function": {"name": "x"}}]}),
    ("stop must be", {"stop": 5}),
    ("stop must be", {"stop": [5]}),
    ("stop must be", {"stop": [""]}),
    ("stop must", {"stop": ["x"] * 100}),
    ("stop must", {"stop": "x" * 5000}),
    ("stop_token_ids", {"stop_token_ids": ["x"]}),
    ("stream must be", {"stream": "yes"}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options", {"stream": True, "stream_options": 5}),
    ("stream_options", {"stream": True, "stream_options": {"other": True}}),
    ("logprobs must be", {"logprobs": 5}),
    ("top_logprobs must come with", {"top_logprobs": 3}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 1000}),
    ("temperature", {"temperature": 1e-40}),
    ("temperature", {"temperature": 1e300}),
    ("temperature", {"temperature": [1]}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.001}),
    ("min_p", {"min_p": 2}),
    ("presence_penalty", {"presence_penalty": 3}),
    ("frequency_penalty", {"frequency_penalty": "x"}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("logit_bias", {"logit_bias": {"x": 1}}),
    ("logit_bias", {"logit_bias": {"999999": 1}}),
    ("logit_bias", {"logit_bias": {"5": 101}}),
    ("logit_bias", {"logit_bias": [5]}),
    ("seed", {"seed": "x"}),
    ("n must be", {"n": 0}),
    ("n must be", {"n": 129}),
    ("n must be", {"n": 10**6}),
    ("max_tokens", {"max_tokens": 1.5}),
    ("ignore_eos", {"ignore_eos": "yes"}),
    ("ignore_eos", {"ignore_eos": True, "response_format": {"type": "json_object"}}),
    ("parallel_tool_calls", {"parallel_tool_calls": "no"}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "x"}},
    "tools": _tool()}),
    ("tool_choice", {"tool_choice": 5, "tools": _tool()}),
    ("tool_choice", {"tool_choice": {"function": []}, "tools": _tool()}),
    ("names of tools", {"tools": [{"type": "function", "function": {"name": "a b"}}],
    "tool_choice": "required"}),
    ("response_format", {"response_format": 5}),
    ("response_format", {"response_format": {"type": "xml"}}),
    ("json_schema", {"response_format": {"type": "json_schema"}}),
    ("json_schema", {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}),
    ("cannot be followed", {"response_format": {"type": "json_schema",
    "json_schema": {"schema": {"type": 5}}}}),
    ("cannot be followed", {"response_format": {"type": "json_schema",
    "json_schema": {"schema": {"$ref": "#/x"}}}}),
    ("chat_template_kwargs", {"chat_template_kwargs": {"x": 1}}),
    ("chat_template_kwargs", {"chat_template_kwargs": 5}),
    ("reasoning_effort", {"reasoning_effort": "high"}),
    ("continue_final_message", {"continue_final_message": True}),
    ("prompt_logprobs", {"prompt_logprobs": 1}),
    ("'guided_json' is not known", {"guided_json": {}}),
    ("'functions' is not known", {"functions": []}),
    ("modalities", {"modalities": ["audio"]}),
    ("min_tokens", {"min_tokens": 4}),
    ("role must be", {"messages": [{"role": 5, "content": "x"}]}),
    ("role must be", {"messages": [{"role": ["user"], "content": "x"}]}),
    ("with a role", {"messages": ["hi"]}),
    ("messages must be", {"messages": "hi"}),
    ("type 'text'", {"messages": [{"role": "user", "content": 5}]}),
    ("type 'text'", {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}),
    ("type 'text'", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    ("reasoning_content", {"messages": [{"role": "assistant", "content": "",
    "reasoning_content": 5}]}),
    ("tool_calls must be", {"messages": [{"role": "assistant", "tool_calls": 5}]}),
    ("tool call must hold", {"messages": [{"role": "assistant",
    "tool_calls": [{"function": {}}]}]}),
    ("arguments must be", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "[1]"}}]}]}),
    ("arguments must be", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "{"}}]}]}),
    ("arguments must be", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": DEEP}}]}]}),
    ("tool_call_id", {"messages": [{"role": "tool", "tool_call_id": 5, "content": "x"}]}),
    ("function_call is not done here", {"messages": [{"role": "assistant", "content": None,
    "function_call": {"name": "find", "arguments": "{}"}}]}),
    ("audio is not done here", {"messages": [{"role": "user", "content": "x",
    "audio": {"id": "a"}}]}),
    ("min_tokens", {"min_tokens": False}),
    ("early_stopping", {"early_stopping": 0}),
    ("tool_choice", {"tool_choice": {"type": "web", "function": {"name": "find"}},
    "tools": _tool()}),
    ("may hold type, got 'schema'", {"response_format": {"type": "json_object", "schema": {}}}),
    ("may hold", {"response_format": {"type": "json_schema",
    "json_schema": {"schema": {}, "x": 1}}}),
    *(("no answer has an end", {"response_format": {"type": "json_schema",
    "json_schema": {"schema": schema}}, "stream": stream})
    for schema in ENDLESS for stream in (False, True)),
    *(("tool_choice: the form", {"tools": _tool(parameters={"required": ["a"],
    "properties": {"a": schema}}), "tool_choice": "required"}) for schema in ({"enum": []},
    {"enum": ["</longcat_arg_value>"]})),
    *(("arguments must be", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": text}}]}]})
    for text in ('{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"\\udc00": 1}')),
    ("Unicode", {"messages": [{"role": "user", "content": "\ud800"}]}),
    ("Unicode", {"stop": ["\udfff"]}),
    ("Unicode", {"model": "\ud800"}),
    ("Unicode", {"tools": _tool(description="\ud83d x")}),
]  # fmt: skip
COMPLETIONS = [
    ("prompt must be", {}),
    ("prompt must be", {"prompt": None}),
    ("prompt must be", {"prompt": []}),
    ("prompt must be", {"prompt": {"a": 1}}),
    ("token ids", {"prompt": [1, "x"]}),
    ("token ids", {"prompt": [[1.5]]}),
    ("1 token at least", {"prompt": ""}),
    ("1 token at least", {"prompt": [[]]}),
    ("list of 1 to", {"prompt": [[1]] * 2000}),
    ("best_of", {"prompt": "x", "best_of": 3}),
    ("suffix", {"prompt": "x", "suffix": "y"}),
    ("echo must be", {"prompt": "x", "echo": "yes"}),
    ("logprobs must be", {"prompt": "x", "logprobs": True}),
    ("logprobs must be", {"prompt": "x", "logprobs": 1000}),
    ("max_tokens", {"prompt": "x", "max_tokens": -1}),
    ("not known", {"prompt": "x", "prompts": 1}),
    ("Unicode", {"prompt": "\ud800"}),
]


@pytest.fixture(scope="module")
def web(url):
    with httpx.Client(base_url=url, timeout=60) as web:
        yield web


def _check(web, route, body, words):
    """A 400 with its reason; the same connection then answers."""
    got = web.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
    error = got.json()["error"]
    assert got.status_code == 400, error
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 600
    assert web.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize(("words", "change"), CHAT)
def test_a_wrong_chat_request_is_one_400(web, words, change):
    _check(web, "/v1/chat/completions", {"messages": ASK, "max_tokens": 2, **change}, words)


@pytest.mark.parametrize(("words", "body"), COMPLETIONS)
def test_a_wrong_completion_request_is_one_400(web, words, body):
    _check(web, "/v1/completions", {"max_tokens": 2, **body}, words)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"5", b"null", b'"x"', b"\xff\xfe", b'{"a": NaN}',
        b'{"a": 1e999, "a": Infinity}',
        DEEP.encode(), b'{"messages": ' + DEEP.encode() + b"}", b'{"a":' * 50_000, b"\x00" * 100,
        b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "x", "user": 1e400}',
        '{"prompt": "\\ud800"}'.encode("utf-16"), '{"prompt": "\\ud800"}'.encode("utf-32"),
        b'{"messages": [{"role": "user", "content": "\xed\xa0\xbd\xed\xb8\x80"}]}',
        b'{"n": ' + b"9" * 10_000 + b"}", "{\"é\": \"\\ud800\"}".encode("latin-1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_what_is_no_json_object_is_400_and_the_connection_goes_on(web, route, content):
    got = web.post(route, content=content)
    assert got.status_code == 400
    assert got.json()["error"]["message"]
    assert web.get("/v1/models").status_code == 200


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 1000, 3000])
@pytest.mark.parametrize("field", ["metadata", "tools", "stop", "messages", "response_format", "x"])
def test_nesting_of_any_depth_is_an_answer(web, field, depth):
    value = "[" * depth + "]" * depth
    body = (
        f'{{"messages": [{{"role": "user", "content": "x"}}], "max_tokens": 1, "{field}": {value}}}'
    )
    got = web.post("/v1/chat/completions", content=body)
    assert got.status_code == (200 if field == "metadata" and depth < 900 else 400) or (
        field == "metadata" and depth <= 1000
    )
    nested = {"type": "object", "properties": {"a": {"type": "string"}}}
    for _ in range(min(depth, 300)):
        nested = {"type": "object", "properties": {"a": nested}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"schema": nested}}
    got = web.post(
        "/v1/chat/completions", json={"messages": ASK, "max_tokens": 1, "response_format": form}
    )
    assert got.status_code in (200, 400)
    assert web.get("/health").status_code == 200


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_coding_of_json_is_read(web, coding):
    text = json.dumps({"messages": [{"role": "user", "content": "é😀"}], "max_tokens": 1})
    for whole in (text, json.dumps(json.loads(text), ensure_ascii=False)):
        got = web.post("/v1/chat/completions", content=whole.encode(coding))
        assert got.status_code == 200, got.text


def test_a_null_counts_as_absent_in_messages_too(web):
    call = {"id": "c", "function": {"name": "find", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": "x", "reasoning_content": None, "reasoning": "why"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": None, "name": None, "content": "x"},
    ]
    got = web.post("/tokenize", json={"messages": [*messages, {"role": "user", "content": "x"}]})
    assert got.status_code == 200
    thought = [{**messages[0], "reasoning_content": "why"}]
    both = [web.post("/tokenize", json={"messages": m}).json() for m in (messages[:1], thought)]
    assert both[0] == both[1]


def test_a_tool_s_answer_is_named_by_its_call(web):
    call = {"id": "c", "function": {"name": "find", "arguments": "{}"}}

    def tokens(**answer):
        messages = [*ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", **answer}]
        return web.post("/tokenize", json={"messages": messages}).json()["tokens"]

    named = tokens(name="find", content="x")
    assert tokens(tool_call_id="c", content="x") == named
    assert tokens(tool_call_id="c", name="book", content="x") == tokens(name="book", content="x")
    assert tokens(tool_call_id="d", content="x") == tokens(name="", content="x") != named


@pytest.mark.parametrize("version", ["9" * 5000, "-1", "x", "1.5", "%D9%A1"])
def test_a_version_that_is_no_number_is_400(engine, tokenizer, version):
    app = create_app(engine, ChatFormat(tokenizer), model="tiny", takes_weights=True)

    async def go():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            got = await web.put(f"/v1/weights/{version}", content=b"x")
            assert got.status_code == 400
            assert "version must be a whole number" in got.json()["error"]["message"]

    asyncio.run(go())


def test_errors_have_the_codes_that_clients_know(web):
    got = web.post("/v1/chat/completions", json={"messages": ASK, "model": "other"})
    assert (got.status_code, got.json()["error"]["code"]) == (404, "model_not_found")
    for route, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Ada " * 900}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Ada " * 90_000}]}),
        ("/v1/completions", {"prompt": "Ada " * 900}),
        ("/v1/completions", {"prompt": [5] * 599}),
        ("/v1/completions", {"prompt": ["x", [5] * 601], "max_tokens": 0, "echo": True}),
    ):
        got = web.post(route, json=body)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "maximum context length is 600 tokens" in got.json()["error"]["message"]
    assert web.get("/nowhere").json()["error"]["code"] == "not_found"
    assert web.get("/v1/completions").status_code == 405


def test_a_text_that_is_too_long_is_not_tokenised(web, monkeypatch):
    def never(self, text):
        raise AssertionError("tokenised")

    monkeypatch.setattr(ChatFormat, "encode", never)
    text = "Ada " * 200_000
    for route, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}),
        ("/v1/completions", {"prompt": text}),
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"messages": [{"role": "user", "content": text}]}),
    ):
        assert web.post(route, json=body).json()["error"]["code"] == "context_length_exceeded"


# -- sizes -----------------------------------------------------------------------------------


def _socket(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def _answer(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        new = connection.recv(65536)
        if not new:
            break
        data += new
    return int(data.split(b" ", 2)[1]) if data else None


@pytest.mark.parametrize("size", [2 * 10**6, 10**8, 10**12, 10**30])
def test_a_body_is_refused_by_its_size_before_it_is_sent(url, size):
    with _socket(url) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode())  # and nothing more
        assert _answer(connection) == 413 or size == 10**30


def test_a_body_may_have_a_megabyte_and_sixteen_bytes_a_token(url, engine):
    most = (1 << 20) + 16 * engine.max_length
    got = [
        httpx.post(f"{url}/v1/completions", content=b" " * n, timeout=60) for n in (most, most + 1)
    ]
    assert got[0].status_code == 400  # it is read, and is no JSON
    assert got[1].status_code == 413


@pytest.mark.parametrize("length", ["-1", "x", "1.5", "1, 2", ""])
def test_a_length_that_is_none_is_refused(url, length):
    with _socket(url) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert _answer(connection) in (400, None)


def test_a_large_body_is_413_whether_its_length_is_told_or_not(url):
    data = b'{"prompt": "' + b"x" * (3 * 10**6) + b'"}'

    def pieces():
        for begin in range(0, len(data), 10**5):
            yield data[begin : begin + 10**5]

    for content in (data, pieces()):
        with httpx.Client(base_url=url, timeout=60) as web:
            try:
                got = web.post("/v1/completions", content=content)
            except (httpx.WriteError, httpx.ReadError):  # it went on writing to a closed door
                continue
            assert got.status_code == 413
            assert got.json()["error"]["code"] == "request_too_large"
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_idle_sockets_and_half_requests_hold_up_nobody(url):
    sockets = [_socket(url) for _ in range(300)]
    try:
        for number, connection in enumerate(sockets):
            if number % 3 == 1:
                connection.sendall(b"POST /v1/chat/comple")
            elif number % 3 == 2:
                connection.sendall(
                    b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"pro'
                )
        began = time.perf_counter()
        got = httpx.post(
            f"{url}/v1/completions", json={"prompt": "find", "max_tokens": 3}, timeout=60
        )
        assert got.status_code == 200
        assert time.perf_counter() - began < 20
    finally:
        for connection in sockets:
            connection.close()


def test_a_body_that_stops_coming_is_sent_away(url, monkeypatch):
    from longcat_moe.serving import _body

    monkeypatch.setattr(_body, "IDLE_S", 0.2)
    with _socket(url) as connection:
        connection.sendall(
            b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"pro'
        )
        assert _answer(connection) == 408


def test_a_slow_reader_of_a_stream_holds_up_nobody(url, engine):
    with _socket(url) as connection:
        body = json.dumps({"prompt": "find", "max_tokens": 300, "stream": True, "ignore_eos": True})
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body.encode())
        got = httpx.post(
            f"{url}/v1/completions", json={"prompt": "find", "max_tokens": 3}, timeout=60
        )
        assert got.status_code == 200
    for _ in range(500):
        if not engine.num_open:
            return
        time.sleep(0.02)
    raise AssertionError(f"{engine.num_open} conversations are still open")


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_while_waiting_for_a_slot_waits_no_more(engine, tokenizer, route, stream):
    mine = Engine(engine.config, num_slots=1, max_length=200, max_waiting=1)
    mine.add_model(0, engine._models[0])
    app = create_app(mine, ChatFormat(tokenizer), model="tiny")
    ask = {"prompt": "find"} if route == "/v1/completions" else {"messages": ASK}
    body = json.dumps({**ask, "stream": stream, "max_tokens": 4}).encode()

    async def go():
        leaves, has_asked = asyncio.Event(), False
        held = await mine.open(0)

        async def receive():
            nonlocal has_asked
            if not has_asked:
                has_asked = True
                return {"type": "http.request", "body": body, "more_body": False}
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(_):
            pass

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
            "path": route, "raw_path": route.encode(), "query_string": b"", "headers": [],
            "client": ("127.0.0.1", 5), "server": ("x", 80), "scheme": "http", "root_path": "",
            "http_version": "1.1",
        }  # fmt: skip
        asked = asyncio.create_task(app(scope, receive, send))
        for _ in range(1000):
            if mine.num_waiting:
                break
            await asyncio.sleep(0.01)
        leaves.set()
        await asyncio.wait_for(asked, 20)
        assert mine.num_waiting == 0
        await mine.close(held)
        assert mine.num_open == 0

    asyncio.run(go())


# -- when the engine fails -------------------------------------------------------------------


def _fails(monkeypatch, error):
    from longcat_moe.engine import _models

    def compute(*_, **__):
        raise error

    monkeypatch.setattr(_models, "compute", compute)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dead", [False, True])
def test_what_a_step_raises_is_a_500_and_a_dead_engine_a_503(
    engine, tokenizer, monkeypatch, stream, dead
):
    import torch

    mine = Engine(engine.config, num_slots=2, max_length=200, threaded=True)
    mine.add_model(0, engine._models[0])
    app = create_app(mine, ChatFormat(tokenizer), model="tiny")
    _fails(
        monkeypatch, torch.AcceleratorError("CUDA error: lost") if dead else MemoryError("no room")
    )

    async def go():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as web:
            for route, body in (
                ("/v1/completions", {"prompt": "find"}),
                ("/v1/chat/completions", {"messages": ASK}),
            ):
                got = await asyncio.wait_for(
                    web.post(route, json={**body, "stream": stream, "max_tokens": 4}), 30
                )
                if stream and got.status_code == 200:  # begun already
                    assert '"server_error"' in got.text
                else:
                    assert got.status_code == (503 if dead else 500)
                    assert got.json()["error"]["type"] == "server_error"
            health = await web.get("/health")
            assert health.status_code == (503 if dead else 200)
            metrics = (await web.get("/metrics")).text
            assert f"longcat_up {int(not dead)}\n" in metrics

    asyncio.run(go())
    assert mine._scheduler.pool.num_used == 0
    assert mine.num_open == 0
