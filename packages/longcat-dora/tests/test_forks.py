"""Worlds that lay hands on what is the controller's: its process, its loop, its pipe."""

import asyncio
import os
import time

import pytest
from longcat_dora import (
    LocalRuntime,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
)
from longcat_dora.endpoint import _in_own_thread
from longcat_dora.testing import TabularEngine, TabularTrainer, guess

pytestmark = pytest.mark.usefixtures("importable")
SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


def _run(folder, world, *, steps=4):
    """Run a world, which travels by value, to `steps`, and see that the log adds up."""
    config = RunConfig(folder=folder, max_steps=steps, scheduler=SMALL, num_controllers=2)
    runtime = LocalRuntime(
        config, factory=lambda: Worker(engine=TabularEngine(), rollout=world),
        trainer=TabularTrainer(learning_rate=0.05),
        tasks=(Task(f"n{n}", n) for n in range(4000)),
    )  # fmt: skip
    assert runtime.run() == steps
    report = check(folder / "log")
    assert report.breaches == []
    assert report.num_open == 0
    runtime.reasons = report.reasons
    return runtime


def _fork():
    """Come back twice; the first to come back has waited for the other's end."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 1


async def _returns_twice(question, policy):
    reward = await guess(question % 8, policy)
    _fork()
    return reward


async def _awaits_twice(question, policy):
    _fork()
    await asyncio.sleep(0)
    return await guess(question % 8, policy)


async def _samples_twice(question, policy):
    _fork()
    return await guess(question % 8, policy)


async def _raises_twice(question, policy):
    await guess(question % 8, policy)
    _fork()
    raise ValueError("raised twice")


async def _forks_beside_itself(question, policy):
    async def part():
        _fork()

    await asyncio.gather(part(), part())
    return await guess(question % 8, policy)


async def _forks_in_a_thread(question, policy):
    await _in_own_thread(_fork)
    return await guess(question % 8, policy)


TWICE = [
    _returns_twice, _awaits_twice, _samples_twice, _raises_twice, _forks_beside_itself,
    _forks_in_a_thread,
]  # fmt: skip


async def _comes_back_twice(question, policy):
    return await TWICE[question % len(TWICE)](question, policy)


def _ended(folder, reason):
    ended = (e for e in read_events(folder / "log") if e["kind"] == "ended")
    return [e["detail"] for e in ended if e["reason"] == reason]


def test_what_comes_back_from_a_fork_is_no_second_controller(tmp_path):
    runtime = _run(tmp_path, _comes_back_twice, steps=6)
    assert runtime.num_restarts == 0
    assert set(runtime.reasons) <= {"failed", "no_signal", "run_ended"}
    assert all("raised twice" in detail for detail in _ended(tmp_path, "failed"))
    tried = {e["task"] for e in read_events(tmp_path / "log") if e["kind"] == "admitted"}
    assert {f"n{n}" for n in range(len(TWICE))} <= tried


async def _works_in_a_fork(question, policy):
    reward = await guess(question % 8, policy)
    if question % 3 == 1:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:  # what a sandbox does: some work, and an end of its own
            os.write(writer, b"worked")
            os._exit(0)
        assert os.read(reader, 6) == b"worked"
        assert os.waitpid(child, 0) == (child, 0)  # noqa: ASYNC222 - at once
        os.close(reader)
        os.close(writer)
    return reward


def test_a_fork_that_works_and_ends_is_the_worlds_affair(tmp_path):
    runtime = _run(tmp_path, _works_in_a_fork)
    assert runtime.num_restarts == runtime.reasons["failed"] == 0


def _a_fork():
    if not os.fork():
        time.sleep(600)


def _a_command():
    os.system("sleep 600 > /dev/null 2>&1 &")


@pytest.mark.parametrize("leave", [_a_fork, _a_command])
def test_a_controllers_death_is_seen_whoever_lives_on(tmp_path, leave):
    """The default deadline is far away: it is the pipe's end that is seen."""
    once = tmp_path / "died"

    async def world(question, policy):
        reward = await guess(question % 8, policy)
        if question == 5 and not once.exists():
            once.touch()
            leave()
            os._exit(7)
        return reward

    runtime = _run(tmp_path, world, steps=6)
    assert runtime.num_restarts >= 1
    assert runtime.reasons["controller_lost"] >= 1


async def _stops_the_loop(question, policy):
    loop = asyncio.get_running_loop()
    if question % 3 == 1:
        loop.stop()
    if question % 3 == 2:
        loop.call_soon(loop.stop)
    return await guess(question % 8, policy)


def test_a_world_that_stops_the_loop_stops_nothing(tmp_path):
    assert _run(tmp_path, _stops_the_loop).num_restarts == 0
    noted = [e["text"] for e in read_events(tmp_path / "log") if e["kind"] == "noticed"]
    assert "a world stopped its controller's event loop; it goes on" in noted


async def _cancels_all(question, policy):
    if question % 6 == 5:
        for task in asyncio.all_tasks():
            task.cancel()
    await asyncio.sleep(0)
    return await guess(question % 8, policy)


def test_a_world_that_cancels_all_tasks_fails_those_and_nothing_vanishes(tmp_path):
    runtime = _run(tmp_path, _cancels_all)
    assert runtime.num_restarts == 0
    assert runtime.reasons["failed"] >= 1
