"""Agents written against the `openai` client, trained unchanged."""

import asyncio
import json
import random
import threading
from dataclasses import replace

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


@pytest.mark.usefixtures("importable")
def test_an_agent_trains_unchanged_and_what_it_heard_is_what_is_trained_on(tmp_path):
    config = RunConfig(
        folder=tmp_path, max_steps=3,
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, max_running=16),
    )  # fmt: skip
    tasks = (Task(f"n{n}", n % NUM_TOKENS) for n in range(400))
    LocalRuntime(config, factory=worker, trainer=TabularTrainer(), tasks=tasks).run()
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.num_committed >= 3 * 8
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


REFUSED = [
    ({"stop": ["x"]}, "stop must be"), ({"temperature": 0.3}, "temperature must be the worker's, 1, got 0.3"),
    ({"top_p": 0.9}, "top_p must be 1"), ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"tool_choice": "required"}, "tool_choice must be 'auto' or 'none'"), ({"seed": 3}, "seed must be absent"),
    ({"logprobs": True}, "logprobs"), ({"min_p": 0.1}, "unknown parameter 'min_p'"),
    ({"max_tokens": -1}, "max_tokens must be a positive number"),
]  # fmt: skip
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
    for option, told in REFUSED:
        with pytest.raises(openai.BadRequestError, match=told):
            client.chat.completions.create(model="policy", messages=[], extra_body=option)
    with pytest.raises(openai.BadRequestError, match="not /responses"):
        client.responses.create(model="policy", input="1")
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


class _Slow(TabularEngine):
    """Answers 'length' to those who want little, and takes its time."""

    async def generate(self, identifier, token_ids, *, max_tokens, temperature):
        await asyncio.sleep(0.3)
        self.asked = max_tokens
        sample = await super().generate(
            identifier, token_ids, max_tokens=max_tokens, temperature=temperature
        )
        return replace(sample, finish_reason="length" if max_tokens == 1 else "stop")


def _held(agent):
    engine = _Slow()
    engine.load_weights(0, json.dumps([[0.0] * 8 for _ in range(8)]).encode())
    return Worker(engine=engine, renderer=Renderer(), rollout=black_box(agent))


def _ask(text="1", **options):
    return {"model": "policy", "messages": [{"role": "user", "content": text}], **options}


async def test_what_a_client_did_not_hear_is_not_trained_on():
    async def agent(question, base_url):
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            for _ in range(3):  # it hangs up, and asks again
                with pytest.raises(openai.APITimeoutError):
                    await client.chat.completions.create(**_ask(), timeout=0.1)
            answer = await client.chat.completions.create(**_ask(), timeout=20)
        return 1.0, {"heard": answer.choices[0].message.content}

    held = _held(agent)
    session = Session(held, 0)
    _, info = await held.rollout(3, session)
    (segment,) = session.segments
    assert segment.token_ids == [1, int(info["heard"])]
    await session.close()
    assert not held.engine._open


async def test_why_an_answer_ended_and_what_it_used_is_told():
    async def agent(question, base_url):
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
            short = await client.chat.completions.create(**_ask(max_tokens=1))
            whole = await client.chat.completions.create(
                **_ask("2", temperature=1.0, n=1, stop=None)
            )
            usage = None
            options = {"stream": True, "stream_options": {"include_usage": True}}
            async for chunk in await client.chat.completions.create(**_ask("3", **options)):
                usage = chunk.usage or usage
        return 1.0, {"short": short.choices[0].finish_reason, "whole": whole, "usage": usage}

    held = _held(agent)
    _, info = await held.rollout(3, Session(held, 0))
    assert info["short"] == "length"
    assert info["whole"].choices[0].finish_reason == "stop"
    told = info["whole"].usage
    assert (told.prompt_tokens, told.completion_tokens, told.total_tokens) == (1, 1, 2)
    assert info["usage"].total_tokens == 2


async def test_a_history_that_is_edited_is_counted():
    async def agent(question, base_url):
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
            messages = _ask()["messages"]
            for _ in range(3):
                answer = await client.chat.completions.create(model="policy", messages=messages)
                said = {"role": "assistant", "content": f" {answer.choices[0].message.content} "}
                messages = [*messages, said, {"role": "user", "content": "2"}]
        return 1.0

    held = _held(agent)
    session = Session(held, 0)
    await held.rollout(3, session)
    assert len(session.segments) == 3
    assert session.num_splits == 2


async def test_as_many_plain_agents_run_at_once_as_there_are_rollouts():
    barrier = threading.Barrier(16, timeout=20)

    def agent(question, base_url):
        barrier.wait()
        return 1.0

    held = _held(agent)
    rewards = await asyncio.gather(*(held.rollout(n, Session(held, 0)) for n in range(16)))
    assert rewards == [1.0] * 16
