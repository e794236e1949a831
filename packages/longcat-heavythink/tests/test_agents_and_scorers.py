"""Thinkers that are whole episodes; scorers behind models and endpoints."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import ClassVar

import pytest
from longcat_heavythink import (
    EpisodeModel,
    FailureKind,
    HeavyConfig,
    Judge,
    Reply,
    RewardEndpoint,
    ToolCall,
    Usage,
    think,
)
from longcat_heavythink._models import as_model
from longcat_heavythink.testing import scripted

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


class Counter:
    """A world with one number, of which each episode needs its own."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.value = 0

    async def reset(self):
        return SimpleNamespace(messages=[{"role": "system", "content": "rules"}], tools=TOOLS)

    async def call(self, asked):
        await asyncio.sleep(0)
        self.value += json.loads(asked["function"]["arguments"])["n"]
        return SimpleNamespace(content=str(self.value))


class Agent:
    name = "agent"

    async def reply(self, call):
        last = call.messages[-1]
        if "Thinkers" in str(last["content"]):
            assert "-> " not in str(call.messages)
            return Reply(text="summed", usage=Usage(1, 1))
        assert call.tools == TOOLS
        assert call.messages[0]["content"] == "rules"
        if last["role"] == "tool" and last["content"] == "6":
            return Reply(text="it is 6", usage=Usage(1, 1))
        await asyncio.sleep(0)
        return Reply(tool_calls=(ToolCall("add", '{"n": 3}', "c"),), usage=Usage(1, 1))


async def test_each_attempt_is_an_episode_in_a_world_of_its_own():
    Counter.made = 0
    got = await think(
        ASK, EpisodeModel(Agent(), Counter), summarise=Agent(), config=HeavyConfig(width=3)
    )
    assert (got.answer, got.attempts) == ("summed", ["it is 6"] * 3)
    assert Counter.made == 3
    assert got.records[0].usage == Usage(3, 3)
    assert got.records[0].reply.thoughts.count("-> ") == 2


async def test_an_episode_without_an_end_or_with_a_broken_world_is_a_failed_attempt():
    class Broken(Counter):
        async def call(self, asked):
            raise OSError("world down")

    async def first(model):
        return (await model.reply(_call())).failure

    assert (await first(EpisodeModel(Agent(), Counter, max_turns=1))).kind is FailureKind.TRUNCATED
    failure = await first(EpisodeModel(Agent(), Broken))
    assert (failure.kind, failure.message) == (
        FailureKind.RAISED, "the episode broke: world down",
    )  # fmt: skip


def _call():
    from longcat_heavythink import Call

    return Call(messages=ASK, temperature=1.0)


async def test_a_judge_gives_marks_and_sees_no_thoughts():
    log = []
    judge = Judge(as_model(scripted(["fine. Mark: 7", "Mark: 11", ""], log)))
    assert await judge(ASK, Reply(text="42", thoughts="SECRET")) == 7.0
    assert "SECRET" not in str(log)
    for match in ("from 0 to 10", "empty"):
        with pytest.raises(RuntimeError, match=match):
            await judge(ASK, Reply(text="42"))


class _Rewards(BaseHTTPRequestHandler):
    answers: ClassVar[list] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["messages"][-1] == {"role": "assistant", "content": "42"}
        payload = json.dumps(self.answers.pop(0)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


async def test_a_reward_model_behind_an_endpoint():
    server = HTTPServer(("127.0.0.1", 0), _Rewards)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/pooling"
    try:
        for answer, reduce, value in [
            ({"reward": 0.25}, "last", 0.25), ({"data": [{"data": [[0.5], [0.25]]}]}, "min", 0.25),
            ({"data": [{"probs": [0.1, 0.9]}]}, "last", 0.9), ([0.5, 0.5], "product", 0.25),
            ({"score": 1}, "mean", 1.0),
        ]:  # fmt: skip
            _Rewards.answers.append(answer)
            scorer = RewardEndpoint(url, model="rm", reduce=reduce)
            assert await scorer(ASK, Reply(text="42")) == value
        _Rewards.answers.append({"x": 1})
        with pytest.raises(RuntimeError, match="must answer with rewards"):
            await RewardEndpoint(url, model="rm")(ASK, Reply(text="42"))
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(ValueError, match="reduce"):
        RewardEndpoint(url, model="rm", reduce="sum")
