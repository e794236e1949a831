"""Any OpenAI client thinks heavily by changing its base address."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest
from longcat_heavythink import EndpointConfig, Journal, Retry, read_journal
from longcat_heavythink.proxy import ProxyConfig, serve
from longcat_heavythink.proxy._limits import _MOST_CLIENTS, Limits

ASK = [{"role": "user", "content": "What is 6 x 7?"}]


@asynccontextmanager
async def proxy(server, **options):
    """Give a client's `post(body, path=…)` and the address of a proxy over a server."""
    ready = asyncio.get_running_loop().create_future()
    upstream = EndpointConfig(
        url=server.url, retry=Retry(base_s=0.01, max_tries=2), api_key=options.pop("api_key", "")
    )
    config = ProxyConfig(upstream=upstream, **{"schedule": "heavy:3", **options})
    task = asyncio.create_task(serve(config, port=0, on_ready=ready.set_result))
    try:
        async with aiohttp.ClientSession(base_url=(await ready) + "/") as client:
            yield client
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def ask(client, *, headers=None, **body):
    body = {"model": "fault", "messages": ASK, **body}
    async with client.post("chat/completions", json=body, headers=headers) as response:
        return response.status, json.loads(await response.text()), response.headers


async def stream(client, **body):
    """Return the chunks of a streamed answer with the times at which they came."""
    body = {"model": "fault", "messages": ASK, "stream": True, **body}
    chunks, began = [], time.monotonic()
    async with client.post("chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                chunks.append(
                    (time.monotonic() - began, data if data == b"[DONE]" else json.loads(data))
                )
    return chunks


def said(chunks, name="content"):
    deltas = [
        c["choices"][0]["delta"] for _, c in chunks if isinstance(c, dict) and c.get("choices")
    ]
    return "".join(delta.get(name) or "" for delta in deltas)


async def test_an_answer_as_from_any_server_with_all_tokens_counted(fault_server):
    async with proxy(fault_server()) as client:
        status, data, _ = await ask(client)
        assert status == 200
        assert data["choices"][0]["message"] == {"role": "assistant", "content": "seen 3"}
        assert data["choices"][0]["finish_reason"] == "stop"
        assert data["usage"]["total_tokens"] == 4 * 10 + 3 + 2
        assert data["longcat"]["decided_by"] == "summary"
        assert data["model"] == "fault"


@pytest.mark.parametrize(
    ("model", "sent", "calls"),
    [("fault@vote:5", "fault", 5), ("fault@plain", "fault", 1), ("@heavy:2", "fault", 3),
     ("other", "other", 4), ("org/name@heavy:2,2", "org/name", 5), ("default", "fault", 4),
     ("name@20260101", "name@20260101", 4), ("", "fault", 4)],
)  # fmt: skip
async def test_the_models_name_says_the_strategy(fault_server, model, sent, calls):
    server = fault_server(lambda n, body: "delay:0.02")
    async with proxy(server) as client:
        status, _, _ = await ask(client, model=model)
        assert status == 200
    assert {body["model"] for body in server.requests} == {sent}
    assert len(server.requests) <= calls
    if "vote" not in model:
        assert len(server.requests) == calls


async def test_streaming_is_live(fault_server):
    server = fault_server(
        lambda n, body: "delay:0.3" if body.get("stream") else "ok",
        answer=lambda body: "one two three four" if body.get("stream") else "try",
    )
    async with proxy(server) as client:
        chunks = await stream(client, stream_options={"include_usage": True})
    assert said(chunks) == "one two three four "
    progress = said(chunks, "reasoning_content")
    assert [line[:4] for line in progress.splitlines()] == ["1/3:", "2/3:", "3/3:"]
    times = [t for t, c in chunks if isinstance(c, dict) and c.get("choices")
             and c["choices"][0]["delta"].get("content")]  # fmt: skip
    assert times[-1] - times[0] >= 0.2  # as the upstream gave it, not afterwards
    assert chunks[0][1]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1][1] == b"[DONE]"
    assert chunks[-2][1]["usage"]["total_tokens"] > 0
    assert chunks[-3][1]["choices"][0]["finish_reason"] == "stop"


async def test_a_vote_is_streamed_whole_at_its_end(fault_server):
    async with proxy(fault_server()) as client:
        assert said(await stream(client, model="fault@vote:3")) == "42"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [("401", 401, "wrong key"), ("404", 404, "no such model"), ("503", 503, "overloaded"),
     ("context", 400, "context"), ("quota", 429, "pay first"), ("html", 502, "Bad gateway"),
     ("reset", 502, "must answer"), ("blank", 502, "empty")],
)  # fmt: skip
async def test_an_upstreams_error_keeps_its_status(fault_server, mode, status, words, is_stream):
    async with proxy(fault_server(default=mode)) as client:
        got, data, _ = await ask(client, stream=is_stream)
    assert got == status
    assert words in data["error"]["message"]


async def test_a_summary_that_breaks_off_after_its_first_words_is_an_error_in_the_stream(
    fault_server,
):
    server = fault_server(
        lambda n, body: "cut_stream" if body.get("stream") else "ok",
        answer=lambda body: "one two three",
    )
    async with proxy(server) as client:
        chunks = await stream(client)
    assert said(chunks) == "one two "
    assert "error" in chunks[-1][1]
    assert not any(c == b"[DONE]" for _, c in chunks)


async def test_a_summary_that_never_begins_leaves_the_vote(fault_server):
    server = fault_server(lambda n, body: "500" if body.get("stream") else "ok")
    async with proxy(server) as client:
        chunks = await stream(client)
        assert said(chunks) == "42"
        assert "summaries failed" in said(chunks, "reasoning_content")
        assert chunks[-1][1] == b"[DONE]"


async def test_tools_go_through_both_stages_and_come_back(fault_server):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    server = fault_server(
        answer=lambda body: {"role": "assistant", "content": None, "tool_calls": [call]}
    )
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    async with proxy(server) as client:
        _, data, _ = await ask(client, tools=tools, tool_choice="auto")
        assert data["choices"][0]["message"]["tool_calls"] == [call]
        assert data["choices"][0]["finish_reason"] == "tool_calls"
        chunks = await stream(client, tools=tools)
        deltas = [c["choices"][0] for _, c in chunks if isinstance(c, dict) and c.get("choices")]
        assert deltas[-2]["delta"]["tool_calls"][0]["function"]["name"] == "add"
        assert deltas[-1]["finish_reason"] == "tool_calls"
        result = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]},
                  {"role": "tool", "tool_call_id": "c1", "content": "7"}]  # fmt: skip
        assert (await ask(client, messages=result, tools=tools))[0] == 200
    assert all(body["tools"] == tools for body in server.requests)
    assert server.requests[0]["tool_choice"] == "auto"


async def test_a_client_that_hangs_up_ends_its_calls(fault_server):
    server = fault_server(default="dead")
    for is_stream in (False, True):
        async with proxy(server) as client:
            asked = asyncio.create_task(ask(client, stream=is_stream))
            await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 3)
            asked.cancel()
            await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 0)


async def test_the_server_stops_at_once_with_requests_under_way(fault_server):
    server = fault_server(default="dead")
    async with proxy(server) as client:
        asked = asyncio.create_task(ask(client))
        await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 3)
    await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 0 and s.connections == 0)
    asked.cancel()


@pytest.mark.parametrize(
    ("body", "words"),
    [({"messages": []}, "messages"), ({"messages": "x"}, "messages"), ({"messages": [1]}, "role"),
     ({"messages": [{"role": "assistant", "content": "x"}]}, "end with"), ({"n": 3}, "n must be 1"),
     ({"model": 7}, "model"), ({"model": "x@hevy:3"}, "hevy"), ({"model": "x@vote:9999"}, "calls"),
     ({"temperature": "hot"}, "temperature"), ({"max_tokens": 0}, "max_tokens"),
     ({"temperature": -1}, "temperature"), ({"temperature": 10**400}, "temperature"),
     ({"tools": "x"}, "tools"), ({"tools": [1]}, "tools")],
)  # fmt: skip
async def test_a_wrong_request_is_told_so(fault_server, body, words):
    server = fault_server()
    async with proxy(server) as client:
        status, data, _ = await ask(client, **body)
        assert status == 400
        assert words in data["error"]["message"]
        async with client.post("chat/completions", data=b"{no") as response:
            assert response.status == 400
        async with client.post("chat/completions", data=b"[1]") as response:
            assert response.status == 400
        async with client.get("nowhere") as response:
            assert response.status == 404
            assert "error" in await response.json()
    assert not server.requests


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b"", "JSON"), (b"[" * 100_000, "JSON"), (b'"\xff"', "JSON"), (b"7", "JSON object"),
     (b'{"messages": [{"role": "user", "content": "a"}], "temperature": Infinity}', "temperature"),
     (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "temperature")],
)  # fmt: skip
async def test_a_body_that_is_no_request_is_told_so(fault_server, raw, words):
    async with proxy(fault_server()) as client, client.post("chat/completions", data=raw) as got:
        assert got.status == 400
        assert words in (await got.json())["error"]["message"]


async def test_a_charset_that_nobody_knows_is_read_as_utf8(fault_server):
    headers = {"Content-Type": "application/json; charset=nonsense"}
    body = json.dumps({"messages": ASK}).encode()
    async with (
        proxy(fault_server()) as client,
        client.post("chat/completions", data=body, headers=headers) as response,
    ):
        assert response.status == 200


async def test_a_pause_that_the_upstream_asks_of_one_client_hangs_no_other(fault_server):
    async with proxy(fault_server(["429:3000"] * 3)) as client:
        status, _, headers = await ask(client)
        assert (status, headers["Retry-After"]) == (429, "3000")
        assert (await ask(client))[0] == 200


async def test_fields_pass_through_and_the_clients_temperature_is_the_answers(fault_server):
    server = fault_server()
    async with proxy(server) as client:
        await ask(client, temperature=0, top_p=0.9, max_completion_tokens=9, seed=4)
    assert [body["temperature"] for body in server.requests] == [1.0, 1.0, 1.0, 0.0]
    assert all((b["top_p"], b["max_tokens"]) == (0.9, 9) for b in server.requests)
    # Each thinker's own: a server that obeys a seed would give one answer three times.
    assert sorted(b["seed"] for b in server.requests[:3]) == [4, 5, 6]
    assert server.requests[3]["seed"] == 4


async def test_keys_are_the_clients_unless_the_proxy_has_one(fault_server):
    server = fault_server()
    async with proxy(server) as client:
        await ask(client, headers={"Authorization": "Bearer mine"})
    assert {h["authorization"] for h in server.headers} == {"Bearer mine"}
    server = fault_server()
    async with proxy(server, api_key="ours") as client:
        await ask(client, headers={"Authorization": "Bearer mine"})
    assert {h["authorization"] for h in server.headers} == {"Bearer ours"}


async def test_each_client_has_its_limit(fault_server):
    server = fault_server(default="dead")
    async with proxy(server, max_in_flight=1) as client:
        first = asyncio.create_task(ask(client))
        await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 3)
        status, data, headers = await ask(client)
        assert (status, headers["Retry-After"]) == (429, "2")
        assert "this client" in data["error"]["message"]
        other = asyncio.create_task(ask(client, headers={"Authorization": "Bearer other"}))
        await asyncio.to_thread(server.wait_for, lambda s: s.in_flight == 6)
        first.cancel()
        other.cancel()


def test_requests_per_minute_flow_back():
    now = [0.0]
    limits = Limits(per_minute=2, clock=lambda: now[0])
    assert [limits.enter("a"), limits.enter("a")] == [None, None]
    assert limits.enter("a") == pytest.approx(30.0)
    assert limits.enter("b") is None
    now[0] = 30.0
    assert limits.enter("a") is None
    assert limits.enter("a") == pytest.approx(30.0)


def test_clients_that_were_silent_longest_are_forgotten_and_busy_ones_are_not():
    limits = Limits(per_minute=1, clock=lambda: 0.0)
    assert limits.enter("busy") is None
    for number in range(_MOST_CLIENTS + 50):
        assert limits.enter(f"c{number}") is None
        limits.leave(f"c{number}")
    assert len(limits._clients) == _MOST_CLIENTS
    assert limits.enter("busy") is not None  # remembered, and still at its limit
    assert limits.enter("c0") is None  # forgotten, so it begins anew
    limits.leave("busy")


async def test_models_and_metrics(fault_server):
    async with proxy(fault_server(models=["m1"])) as client:
        async with client.get("models") as response:
            names = [item["id"] for item in (await response.json())["data"]]
        assert names == ["m1", "m1@plain", "m1@heavy:4", "m1@heavy:8", "m1@vote:16"]
        await ask(client, model="m1")
        await ask(client, n=2)
        async with client.get("/metrics") as response:
            text = await response.text()
        async with client.get("/health") as response:
            assert response.status == 200
    for line in ('requests_total{status="200"} 1', 'requests_total{status="400"} 1',
                 'upstream_calls_total{outcome="good"} 4', 'tokens_total{kind="prompt"} 40',
                 'answers_total{decided_by="summary"} 1', "requests_in_flight 0"):  # fmt: skip
        assert f"longcat_heavythink_{line}\n" in text


async def test_a_journal_records_what_passes(fault_server, tmp_path):
    server = fault_server()
    with Journal(tmp_path / "j", can_resume=False) as journal:
        async with proxy(server, journal=journal) as client:
            await ask(client)
            await ask(client)  # the same question again is a run of its own
    assert server.stats().num_requests == 8
    entries = read_journal(tmp_path / "j")
    assert [e["kind"] for e in entries].count("call") == 8
    assert len({e["run"] for e in entries if e["kind"] == "end"}) == 2


def test_a_proxy_is_checked():
    with pytest.raises(ValueError, match="hevy"):
        ProxyConfig(upstream=EndpointConfig(url="http://x"), schedule="hevy")
    with pytest.raises(ValueError, match="per_minute"):
        ProxyConfig(upstream=EndpointConfig(url="http://x"), per_minute=-1)
