"""Episodes of the first form: hostile calls, the end, and the fault of the world."""

import json
import sqlite3

import pytest
from longcat_envs import (
    Database,
    Grower,
    Invalid,
    InvalidEpisode,
    Observation,
    Reward,
    TaskEnvironment,
    World,
    builtin_domains,
    run_episode,
)  # fmt: skip


@pytest.fixture(scope="module", params=builtin_domains())
def world(request):
    return World.load(request.param)


@pytest.fixture(scope="module")
def tasks(world):
    grower = Grower(world.domain, seed=5)
    return [next(grower) for _ in range(40)]


def _call(name, /, **arguments):
    return {"id": "c", "function": {"name": name, "arguments": json.dumps(arguments)}}


class _Scripted:
    def __init__(self, *messages):
        self.messages = list(messages)

    async def chat(self, messages, *, tools):
        return self.messages.pop(0) if self.messages else None


HOSTILE = [
    {}, None, [], "x", {"function": None}, {"function": []}, {"function": {"name": None}},
    {"function": {"name": 7, "arguments": "{}"}}, {"function": {"arguments": "{}"}},
    *({"function": {"name": "NAME", "arguments": a}} for a in (
        None, "", "[" * 100_000, "1" * 5_000, '{"a": ' + "1" * 5_000 + "}", "NaN", "nul", b"{}", [1],
        {"KEY": "\ud800"}, {"KEY": ""}, {"KEY": "😀" * 1_000}, {"KEY": "a\x00b"}, {"KEY": None},
        {"KEY": ["a"]}, {"KEY": 10**400}, {1: 2}, {"KEY": "x" * 10_000_000}, '{"KEY": "\\ud800"}',
    )),
]  # fmt: skip


async def test_a_call_never_raises_and_a_bad_one_changes_nothing(world, tasks):
    environment = TaskEnvironment(world, tasks[0])
    await environment.reset()
    before = environment._database.tables()
    for name in tasks[0].tools:
        key = world.tools[name].parameters[0].name
        for hostile in HOSTILE:
            call = _rename(hostile, name, key)
            result = await environment.call(call)
            assert result.is_error, call
            result.content.encode()
    assert environment._database.tables() == before
    assert isinstance(await environment.score(), Reward)
    await environment.close()
    assert (await environment.call(_call(tasks[0].golden[0].tool))).is_error


def _rename(value, name, key):
    if isinstance(value, dict):
        return {_rename(k, name, key): _rename(v, name, key) for k, v in value.items()}
    swap = {"NAME": name, "KEY": key}
    return swap.get(value, value) if isinstance(value, str) else value


async def test_after_the_end_nothing_is_obeyed(world, tasks):
    task = next(t for t in tasks if "question" not in t.tags and not t.withheld)
    environment = TaskEnvironment(world, task)
    await environment.reset()
    assert await environment.reply({"role": "assistant", "content": "Done."}) is None
    for step in task.golden:
        result = await environment.call(_call(step.tool, **step.arguments))
        assert "the conversation is over" in result.content
    assert (await environment.score()).total == 0


async def test_the_fault_of_the_world_is_invalid_and_not_a_zero(world, tasks, monkeypatch):
    environment = TaskEnvironment(world, tasks[0])
    assert isinstance(await environment.score(), Invalid)
    await environment.reset()

    def broken(*_):
        raise sqlite3.OperationalError("disk I/O error")

    step = tasks[0].golden[0]
    with monkeypatch.context() as patch:
        patch.setattr(Database, "call", broken)
        result = await environment.call(_call(step.tool, **step.arguments))
    assert "out of order" in result.content
    score = await environment.score()
    assert score == Invalid("OperationalError: disk I/O error")
    with pytest.raises(InvalidEpisode, match="not begun"):
        await run_episode(_NeverBegun(world, tasks[0]), _Scripted())
    await environment.reset()
    assert isinstance(await environment.score(), Reward)


class _NeverBegun(TaskEnvironment):
    async def reset(self):
        return Observation(messages=[], tools=[])
