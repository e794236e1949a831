"""A server's every fault has a stated outcome, connections are bounded, nothing is left behind."""

import asyncio
import signal
import subprocess
import sys
import time

import aiohttp
import pytest
from longcat_heavythink import (
    Call,
    Endpoint,
    EndpointConfig,
    FailureKind,
    HeavyConfig,
    Retry,
    openai_complete,
    think,
)
from longcat_heavythink.testing import FAULTS

ASK = [{"role": "user", "content": "What is 6 x 7?"}]
QUICK = Retry(base_s=0.01)

# What one call comes to when the first try meets the fault and later ones do not: the number of
# tries, and the reason for which there is no answer, if there is none.
OUTCOMES = {
    "429": (2, None), "429_date": (2, None), "cut": (2, None), "cut_stream": (2, None),
    "error_stream": (2, None), "dead": (2, None), "slow": (1, None), "trickle": (1, None),
    "reset": (2, None), "hang_after_head": (2, None), "close_after": (1, None), "500": (2, None),
    "502": (2, None), "503": (2, None), "400": (1, "refused"), "401": (1, "refused"),
    "404": (1, "refused"), "context": (1, "context"), "quota": (1, "rate_limited"),
    "redirect": (1, "refused"), "no_content": (1, "refused"), "html": (2, None),
    "nothing": (2, None), "array": (2, None), "error_200": (2, None), "no_choices": (2, None),
    "no_message": (2, None), "number": (2, None), "blank": (1, "empty"), "null": (1, "truncated"),
    "length": (1, "truncated"), "filter": (1, "filtered"), "unclosed": (1, "unclosed"),
    "parts": (1, None), "bom": (1, None), "latin": (1, None), "no_usage": (1, None),
    "no_finish": (1, None), "gzip": (1, None), "bad_gzip": (2, None), "garbage": (2, None),
    "deep": (2, None),
}  # fmt: skip


def _endpoint(server, **options):
    return openai_complete(server.url, **{"timeout_s": 2.0, "retry": QUICK, **options})


def test_every_fault_is_accounted_for():
    assert set(OUTCOMES) == set(FAULTS)


@pytest.mark.parametrize("mode", FAULTS)
async def test_every_fault_has_its_outcome(fault_server, mode):
    tries, kind = OUTCOMES[mode]
    server = fault_server([mode])
    is_silent = mode in ("dead", "hang_after_head")
    timeout_s = 0.7 if is_silent else 30.0
    reply = await _endpoint(server, timeout_s=timeout_s).reply(Call(messages=ASK, temperature=1))
    assert (reply.failure and reply.failure.kind) == kind
    # Silence is measured by a clock: on a machine that stands still good answers are silent too.
    assert reply.timing.tries == tries or (is_silent and reply.timing.tries > tries)
    if kind is None:
        assert reply.text.startswith("42")
        assert reply.usage.estimated == (mode == "no_usage")
    else:
        assert reply.failure.message
    stats = server.wait_for(lambda s: s.in_flight == 0 and s.connections == 0)
    assert stats.num_requests == reply.timing.tries


@pytest.mark.parametrize("mode", FAULTS)
async def test_no_fault_costs_a_good_answer(fault_server, mode):
    """Three thinkers, one of which meets the fault; and a summary that does."""
    server = fault_server(["ok", mode, "ok"])
    config = HeavyConfig(width=3)
    timeout_s = 0.7 if mode in ("dead", "hang_after_head") else 30.0
    got = await think(ASK, _endpoint(server, timeout_s=timeout_s), config=config)
    lost = OUTCOMES[mode][1] is not None
    assert len(got.attempts) == 3 - lost
    assert got.answer == f"seen {3 - lost}"
    good, bad = fault_server(), fault_server(default=mode)
    deadline_s = 0.4 if mode in ("dead", "hang_after_head", "429", "429_date") else 30
    summary = _endpoint(bad, timeout_s=timeout_s, deadline_s=deadline_s)
    got = await think(ASK, _endpoint(good), summarise=summary, config=config)
    assert got.attempts == ["42"] * 3
    if lost or OUTCOMES[mode][0] == 2:
        assert (got.answer, got.decided_by) == ("42", "fallback: vote")
        assert "all 1 summaries failed" in got.fell_back


@pytest.mark.parametrize("mode", FAULTS)
async def test_streams_meet_the_same_faults(fault_server, mode):
    server = fault_server([mode], answer=lambda body: "one two three")
    pieces = []
    timeout_s = 0.7 if mode in ("dead", "hang_after_head") else 30.0
    reply = await _endpoint(server, timeout_s=timeout_s).reply(
        Call(messages=ASK, temperature=1, on_delta=pieces.append)
    )
    shown = "".join(piece.text for piece in pieces)
    if mode in ("cut_stream", "error_stream"):  # what was shown cannot be taken back
        assert (shown, reply.text) == ("one two ", "one two")
        assert reply.failure.kind in (FailureKind.CUT, FailureKind.SERVER)
    else:
        assert (reply.failure and reply.failure.kind) == OUTCOMES[mode][1]
        if reply.good:
            assert shown.strip() == reply.text
    server.wait_for(lambda s: s.in_flight == 0)


async def test_the_server_of_faults_refuses_what_is_no_json(fault_server):
    server = fault_server()
    url = f"{server.url}/chat/completions"
    async with aiohttp.ClientSession() as client, client.post(url, data=b"{") as response:
        assert (response.status, server.stats().num_requests) == (400, 0)


async def test_messages_name_the_address_and_what_came(fault_server):
    for mode, words in [
        ("html", "Bad gateway"), ("redirect", "redirects to http://127.0.0.1:9/"),
        ("error_200", "model crashed"), ("array", "[1, 2]"),
        ("404", "no such model"), ("no_choices", '"choices": []'),
    ]:  # fmt: skip
        server = fault_server(default=mode)
        reply = await _endpoint(server, retry=Retry(max_tries=1)).reply(
            Call(messages=ASK, temperature=1)
        )
        assert server.url in reply.failure.message
        assert words in reply.failure.message


async def test_a_server_that_admits_few_gets_all_answered(fault_server):
    server = fault_server(default="delay:0.03", admits=12)
    got = await think(ASK, _endpoint(server), config=HeavyConfig(width=64))
    assert (got.answer, got.num_failed) == ("seen 64", 0)
    stats = server.stats()
    assert stats.num_requests < 64 * 4  # it learns how many are admitted


async def test_retry_after_is_kept_by_all(fault_server):
    server = fault_server(["429:0.4"] * 2)
    began = time.monotonic()
    endpoint = _endpoint(server, max_connections=2)
    got = await think(ASK, endpoint, config=HeavyConfig(width=8))
    assert got.answer == "seen 8"
    assert time.monotonic() - began >= 0.4


async def test_a_pause_beyond_the_deadline_is_not_waited_for(fault_server):
    server = fault_server(default="429:50")
    began = time.monotonic()
    reply = await _endpoint(server, deadline_s=5).reply(Call(messages=ASK, temperature=1))
    assert (reply.failure.kind, reply.failure.retry_after_s) == (FailureKind.RATE_LIMITED, 50.0)
    assert time.monotonic() - began < 4


async def test_a_pause_that_nobody_waits_for_holds_up_no_other_call(fault_server):
    server = fault_server(["429:3000"])
    endpoint = _endpoint(server, deadline_s=60)
    async with endpoint:
        first = await endpoint.reply(Call(messages=ASK, temperature=1))
        assert first.failure.retry_after_s == 3000.0
        second = await endpoint.reply(Call(messages=ASK, temperature=1))
    assert second.text == "42"


async def test_a_deadline_ends_a_call_with_its_tries(fault_server):
    server = fault_server(default="dead")
    reply = await _endpoint(server, deadline_s=0.3).reply(Call(messages=ASK, temperature=1))
    assert reply.failure.kind is FailureKind.TIMEOUT
    assert "0.3 s" in reply.failure.message
    server.wait_for(lambda s: s.connections == 0)


@pytest.mark.parametrize("width", [64, 512])
async def test_connections_are_bounded_and_kept(fault_server, width):
    server = fault_server(default="delay:0.005")
    got = await think(ASK, _endpoint(server, max_connections=16), config=HeavyConfig(width=width))
    assert got.answer == f"seen {width}"
    stats = server.wait_for(lambda s: s.connections == 0)
    assert stats.max_connections <= 16
    assert stats.total_connections <= 20
    assert stats.in_flight == 0


async def test_a_hedge_overtakes_a_straggler(fault_server):
    server = fault_server(["dead"])
    began = time.monotonic()
    endpoint = _endpoint(server, hedge_after_s=0.05, timeout_s=30)
    reply = await endpoint.reply(Call(messages=ASK, temperature=1))
    assert reply.text == "42"
    assert time.monotonic() - began < 20
    stats = server.wait_for(lambda s: s.in_flight == 0)
    assert (stats.num_requests, stats.num_left) == (2, 1)


async def test_a_hedge_waits_for_the_other_when_the_first_is_bad(fault_server):
    server = fault_server(["delay:0.15", "401"])
    endpoint = _endpoint(server, hedge_after_s=0.02)
    assert (await endpoint.reply(Call(messages=ASK, temperature=1))).text == "42"


async def test_a_decided_vote_leaves_nothing_in_flight(fault_server):
    server = fault_server(lambda number, body: "ok" if number < 9 else "dead")
    got = await think(ASK, _endpoint(server, timeout_s=60), config=HeavyConfig(schedule="vote:16"))
    assert got.answer == "42"
    stats = server.wait_for(lambda s: s.in_flight == 0 and s.connections == 0)
    assert (stats.num_answered, stats.num_left) == (9, stats.num_requests - 9)


async def test_cancelling_at_any_moment_leaves_nothing_in_flight(fault_server):
    for mode in ("dead", "429:30", "hang_after_head", "503"):
        for stage in (0, 8):  # while thinking, while summing up
            server = fault_server(lambda n, body, s=stage, m=mode: m if n >= s else "ok")
            endpoint = _endpoint(server, timeout_s=60, retry=Retry(base_s=20, max_tries=9))
            run = asyncio.create_task(think(ASK, endpoint, config=HeavyConfig(width=8)))
            await asyncio.to_thread(server.wait_for, lambda s, n=stage: s.num_requests > n)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            server.wait_for(lambda s: s.in_flight == 0 and s.connections == 0)
            assert endpoint.gate.in_flight == 0


CTRL_C = """
import asyncio, sys
from longcat_heavythink import HeavyConfig, Retry, openai_complete, think
url, width = sys.argv[1], int(sys.argv[2])
endpoint = openai_complete(url, timeout_s=60, retry=Retry(base_s=20))
ask = [{"role": "user", "content": "q"}]
asyncio.run(think(ask, endpoint, config=HeavyConfig(width=width)))
"""


def hear_ctrl_c():
    """Undo what a shell does to jobs in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


STOPPED = [("thinking", 200), ("waiting", 200), ("summary", 100), ("stream", 4)]
STOPPED_AT_512 = [
    pytest.param(stage, 512, marks=pytest.mark.long, id=f"{stage}-512") for stage, _ in STOPPED
]


@pytest.mark.parametrize(("stage", "width"), [*STOPPED, *STOPPED_AT_512])
def test_ctrl_c_leaves_nothing_in_flight(fault_server, stage, width):
    modes = {
        "thinking": lambda n, body: "dead", "waiting": lambda n, body: "429:30",
        "summary": lambda n, body: "ok" if n < width else "dead",
        "stream": lambda n, body: "ok" if n < width else "delay:30",
    }  # fmt: skip
    server = fault_server(modes[stage])
    command = [sys.executable, "-c", CTRL_C, server.url, str(width)]
    if stage == "stream":
        command = [sys.executable, "-m", "longcat_heavythink", "think", "q", "--url", server.url,
                   "--k", str(width)]  # fmt: skip
    least = {"thinking": 64, "waiting": 2, "summary": width + 1, "stream": width + 1}[stage]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    ) as process:
        try:
            server.wait_for(lambda s: s.num_requests >= least, 60)
            process.send_signal(2)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    stats = server.wait_for(lambda s: s.in_flight == 0 and s.connections == 0)
    assert stats.max_connections <= 64
    assert "never retrieved" not in errors
    assert "Unclosed" not in errors
    if stage == "stream":
        assert (process.returncode, errors.splitlines()[-1]) == (130, "stopped")
    else:
        assert errors.splitlines()[-1] == "KeyboardInterrupt"


async def test_a_call_of_its_own_returns_text_or_raises(fault_server):
    server = fault_server(answer=lambda body: f"<think>hm</think>{body['model']}")
    complete = _endpoint(server, model="good", api_key="k")
    assert await complete(ASK, 1.0) == "good"
    assert server.headers[0]["authorization"] == "Bearer k"
    bad = fault_server(default="404")
    with pytest.raises(RuntimeError, match="answered 404"):
        await _endpoint(bad, model="bad")(ASK, 1.0)


def test_one_endpoint_serves_many_loops(fault_server):
    server = fault_server()
    endpoint = _endpoint(server)
    for _ in range(3):
        assert asyncio.run(endpoint(ASK, 1.0)) == "42"


async def test_letters_that_are_no_utf8_are_sent_as_escapes(fault_server):
    server = fault_server(answer=lambda body: "ok")
    assert await _endpoint(server)([{"role": "user", "content": "\ud800 Zürich"}], 1.0) == "ok"
    assert server.requests[0]["messages"][0]["content"] == "\ud800 Zürich"
    with pytest.raises(ValueError, match="temperature"):
        await _endpoint(server)(ASK, float("nan"))


async def test_nobody_there():
    began = time.monotonic()
    endpoint = openai_complete("http://127.0.0.1:9/v1", model="x", retry=QUICK)
    with pytest.raises(RuntimeError, match="9/v1/chat/completions must answer, but"):
        await endpoint(ASK, 1.0)
    reply = await endpoint.reply(Call(messages=ASK, temperature=1))
    assert (reply.failure.kind, reply.timing.tries) == (FailureKind.UNREACHABLE, 5)
    assert time.monotonic() - began < 20


async def test_the_model_is_found_by_asking(fault_server):
    server = fault_server(models=["only"])
    endpoint = _endpoint(server)
    assert endpoint.name == server.url
    await endpoint(ASK, 1.0)
    assert endpoint.name == "only"
    assert server.requests[0]["model"] == "only"
    for models, words in [([], "it has none"), (["a", "b"], "it has a, b")]:
        with pytest.raises(RuntimeError, match=words):
            await _endpoint(fault_server(models=models))(ASK, 1.0)


async def test_a_model_that_cannot_be_found_is_asked_for_once_by_all_who_wait(fault_server):
    class Counting(Endpoint):
        num_asked = 0

        async def _get_models(self, headers):
            self.num_asked += 1
            await asyncio.sleep(0.05)
            return await super()._get_models(headers)

    endpoint = Counting(EndpointConfig(url=fault_server(models=[]).url))
    async with endpoint:
        calls = [Call(messages=ASK, temperature=1, headers={"X-Key": k}) for k in "aabb"]
        replies = await asyncio.gather(*map(endpoint.reply, calls))
        assert endpoint.num_asked == 2  # once for each key: what one may see, another may not
        assert all("it has none" in reply.failure.message for reply in replies)
        await endpoint.reply(calls[0])
        assert endpoint.num_asked == 3  # who comes later asks again


async def test_a_model_that_is_named_is_not_asked_for(fault_server):
    server = fault_server(models=[])  # whoever asks it is told that it has none
    await _endpoint(server, model="named")(ASK, 1.0)
    await _endpoint(server, extra={"model": "in_extra"})(ASK, 1.0)
    reply = await _endpoint(server).reply(
        Call(messages=ASK, temperature=1, extra={"model": "in_call"})
    )
    assert reply.failure is None
    assert [body["model"] for body in server.requests] == ["named", "in_extra", "in_call"]


async def test_a_request_holds_what_was_asked_for(fault_server):
    server = fault_server()
    tools = [{"type": "function", "function": {"name": "f"}}]
    endpoint = _endpoint(server, extra={"top_p": 0.9}, max_tokens=7, headers={"X-Team": "a"})
    await think(ASK, endpoint, config=HeavyConfig(width=1, max_tokens=3), tools=tools,
                extra={"seed": 1})  # fmt: skip
    for body in server.requests:
        assert body["tools"] == tools
        assert (body["top_p"], body["seed"], body["max_tokens"]) == (0.9, 1, 3)
        assert "stream" not in body
    assert server.headers[0]["x-team"] == "a"
    await endpoint(ASK, 0.5)
    assert (server.requests[-1]["max_tokens"], server.requests[-1]["temperature"]) == (7, 0.5)


async def test_a_summary_too_long_for_the_context_is_packed_again(fault_server):
    def mode(number, body):
        return "context" if len(body["messages"][-1]["content"]) > 2000 else "ok"

    server = fault_server(mode, answer=lambda body: "long " * 200)
    got = await think(ASK, _endpoint(server), config=HeavyConfig(width=4))
    assert (got.decided_by, got.fell_back) == ("summary", "")
    sizes = [len(body["messages"][-1]["content"]) for body in server.requests[4:]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 2000


async def test_silence_is_counted_from_the_last_byte(fault_server):
    """The whole answer takes longer than the server may be silent, and comes all the same."""
    server = fault_server(default="trickle:0.05")
    reply = await _endpoint(server, timeout_s=1.2).reply(Call(messages=ASK, temperature=1))
    assert (reply.text, reply.timing.tries) == ("42", 1)
    assert reply.timing.total_s > 1.2


@pytest.mark.parametrize("url", ["http://x:99999/v1", "http://[::1/v1", "http://x:port/v1"])
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(ValueError, match="is no address"):
        EndpointConfig(url=url)


@pytest.mark.parametrize(
    "field",
    [{"max_connections": 0}, {"max_connections": 2.5}, {"max_connections": True},
     {"max_connections": None}, {"max_tokens": 0}, {"max_tokens": 1.5}, {"timeout_s": "5"},
     {"timeout_s": float("nan")}, {"deadline_s": 0}, {"hedge_after_s": -1}],
)  # fmt: skip
def test_an_endpoint_is_checked_whole(field):
    with pytest.raises(ValueError, match="must be"):
        EndpointConfig(url="http://x", **field)
