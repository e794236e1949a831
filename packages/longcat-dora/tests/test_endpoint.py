"""Agents written against the `openai` client, trained unchanged."""

import asyncio
import json
import random
import threading

import openai
import pytest
from longcat_dora import (
    LocalRuntime,
    RunConfig,
    SchedulerConfig,
    Session,
    Task,
    Worker,
    check,
    read_events,
    read_trajectories,
)
from longcat_dora.endpoint import black_box
from longcat_dora.testing import NUM_TOKENS, TabularEngine, TabularTrainer

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


class Renderer:
    """A message is one token: its text, a number. Odd answers with tools at hand are calls."""

    def start(self, messages, tools):
        return [int(m["content"]) % NUM_TOKENS for m in messages if m.get("content")]

    def extend(self, messages):
        assert all(m["name"] == "add" for m in messages if m["role"] == "tool")
        return self.start(messages, [])

    def parse(self, token_ids, tools):
        (token,) = token_ids
        if tools and token % 2:
            call = {"type": "function", "function": {"name": "add", "arguments": {"by": token}}}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"role": "assistant", "content": str(token)}


async def agent(question, base_url):
    """Calls a tool as often as it likes, then asks a sub-agent in a context of its own."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
        return await _converse(client, question)


async def _converse(client, question):
    messages = [{"role": "user", "content": str(question)}]
    for _ in range(5):
        answer = await client.chat.completions.create(
            model="policy", messages=messages, tools=[TOOL]
        )
        message = answer.choices[0].message
        messages.append(message.model_dump())
        if not message.tool_calls:
            break
        by = json.loads(message.tool_calls[0].function.arguments)["by"]
        result = {
            "role": "tool",
            "tool_call_id": message.tool_calls[0].id,
            "content": str(question + by),
        }
        messages.append(result)
    parts = [{"type": "text", "text": str(question)}]
    other = await client.chat.completions.create(
        model="policy", messages=[{"role": "user", "content": parts}]
    )
    return float(int(other.choices[0].message.content) == (question + 1) % NUM_TOKENS), {
        "said": messages
    }


def worker():
    return Worker(engine=TabularEngine(), renderer=Renderer(), rollout=black_box(agent))


@pytest.fixture
def importable(request, monkeypatch):
    """Let spawned processes import this file, whose name is relative to the root of the tests."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.usefixtures("importable")
def test_an_agent_trains_unchanged_and_what_it_heard_is_what_is_trained_on(tmp_path):
    config = RunConfig(
        folder=tmp_path, max_steps=12, num_controllers=2,
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, max_running=16),
    )  # fmt: skip
    tasks = (Task(f"n{n}", n % NUM_TOKENS) for n in range(400))
    LocalRuntime(config, factory=worker, trainer=TabularTrainer(), tasks=tasks).run()
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.num_committed >= 12 * 8
    assert not report.reasons["failed"]
    for trajectory in read_trajectories(tmp_path / "log"):
        main, other = trajectory.segments  # two contexts, never mixed
        said = [
            int(m["tool_calls"][0]["function"]["arguments"].strip('{}"by: '))
            if m.get("tool_calls") else int(m["content"])
            for m in trajectory.info["said"] if m["role"] == "assistant"
        ]  # fmt: skip
        sampled = [t for t, is_ours in zip(main.token_ids, main.loss_mask, strict=True) if is_ours]
        assert sampled == said
        assert main.loss_mask == [False, True] * len(said)
        assert len(other.token_ids) == 2


go_on = threading.Event()


def _thread_agent(question, base_url):
    if question == "wait":
        go_on.wait(20)
        return 0.0
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["policy"]
    text, reason = "", None
    stream = client.chat.completions.create(
        model="policy", messages=[{"role": "user", "content": str(question)}], stream=True
    )
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    assert reason == "stop"
    with pytest.raises(openai.BadRequestError, match="n must be 1"):
        client.chat.completions.create(model="policy", messages=[], n=2)
    with pytest.raises(openai.BadRequestError, match="must be as in OpenAI's API"):
        client.chat.completions.create(model="policy", messages=[{"content": "1"}])
    heard.append((client, text))
    return 1.0


heard = []


async def test_a_plain_function_runs_in_a_thread_and_its_address_ends_with_it():
    engine = TabularEngine()
    engine.load_weights(
        0, json.dumps([[random.random() for _ in range(8)] for _ in range(8)]).encode()
    )
    rollout = black_box(_thread_agent)
    held = Worker(engine=engine, renderer=Renderer(), rollout=rollout)
    session, other = Session(held, 0), Session(held, 0)
    stays = asyncio.create_task(
        rollout("wait", other)
    )  # the server ends with the last who needs it
    assert await rollout(3, session) == 1.0
    client, text = heard[0]
    assert session.segments[0].token_ids == [3, int(text)]

    def late():
        with pytest.raises(openai.NotFoundError, match="is over"):
            client.chat.completions.create(
                model="policy", messages=[{"role": "user", "content": "1"}]
            )

    await asyncio.to_thread(late)
    go_on.set()
    assert await stays == 0.0
    client.close()
    await session.close()
