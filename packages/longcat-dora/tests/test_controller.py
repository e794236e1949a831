"""A controller obeys orders in the order they come, whatever they interrupt."""

import array
import asyncio
import contextlib
import functools
import inspect
import json
import re
from dataclasses import replace

import pytest
from longcat_dora import EndReason, Invalid, Mask, RolloutController, Worker
from longcat_dora._log.tensors import CopiedWeights, shards_of
from longcat_dora._rollout.messages import (
    AbortRollout,
    Loaded,
    Loading,
    LoadWeights,
    MoveRollout,
    Noted,
    RetireVersion,
    RolloutFailed,
    StartRollout,
    Stop,
)
from longcat_dora.testing import TabularEngine


async def _two_turns(question, policy):
    (first,) = await policy.generate([question])
    await asyncio.sleep(0.01)
    (second,) = await policy.generate([first])
    return float(second)


async def test_a_version_that_is_retired_right_after_a_start_stays_until_it_is_over():
    table, done, told = json.dumps([[0.0] * 8 for _ in range(8)]).encode(), asyncio.Queue(), []
    engine = TabularEngine()
    controller = RolloutController(
        Worker(engine=engine, rollout=_two_turns), deadline_s=60, deliver=lambda trajectory, _: done.put_nowait(trajectory),
        tell=told.append,
    )  # fmt: skip
    controller.obey(LoadWeights(0, table))
    for n in range(4):  # all of it before any rollout has run
        controller.obey(StartRollout(f"t{n}", "g", "task", "", 0, n, n))
    controller.obey(AbortRollout("t3"))
    controller.obey(LoadWeights(1, table))
    controller.obey(RetireVersion(0))
    controller.obey(MoveRollout("t2", 1))
    assert sorted(engine.tables) == [0, 1]
    trajectories = [await done.get() for _ in range(3)]
    await asyncio.sleep(0.01)
    assert told == [Loading(0), Loaded(0), Loading(1), Loaded(1)]
    assert sorted(engine.tables) == [1]
    assert [t.version for t in sorted(trajectories, key=lambda t: t.id)] == [0, 0, 1]
    assert not engine._open
    controller.obey(LoadWeights(2, table))
    controller.obey(RetireVersion(1))  # to which one had moved
    assert sorted(engine.tables) == [2]
    await controller.close()


async def test_a_version_is_freed_as_soon_as_all_have_moved_away_from_it():
    engine, ended = TabularEngine(latency_s=0.2), asyncio.Event()
    controller = RolloutController(
        Worker(engine=engine, rollout=_two_turns), deadline_s=60, tell=lambda _: None,
        deliver=lambda *_: ended.set(),
    )  # fmt: skip
    for version in (0, 1):
        controller.obey(LoadWeights(version, TABLE))
    controller.obey(StartRollout("t0", "g", "task", "", 0, 3, 3))
    controller.obey(RetireVersion(0))
    assert sorted(engine.tables) == [0, 1]
    controller.obey(MoveRollout("t0", 1))  # before it has spoken
    assert sorted(engine.tables) == [1]
    async with asyncio.timeout(60):
        await ended.wait()
    await controller.close()


async def _waits(question, policy):
    await asyncio.Event().wait()


async def _guesses(question, policy):
    return float((await policy.generate([question]))[0])


@pytest.mark.parametrize("world", [_waits, _guesses], ids=["in the world", "as its session closes"])
def test_a_rollout_that_is_let_go_as_its_process_ends_says_nothing_and_does_not_go_on(
    world, monkeypatch
):
    async def close(session):
        await asyncio.Event().wait()

    monkeypatch.setattr("longcat_dora._rollout.session.Session.close", close)
    told = []
    controller = RolloutController(
        Worker(engine=TabularEngine(), rollout=world), deadline_s=60, tell=told.append,
        deliver=lambda *_: told.append("delivered"),
    )  # fmt: skip

    async def begin():
        controller.obey(LoadWeights(0, TABLE))
        controller.obey(StartRollout("t0", "g", "task", "", 0, 3, 3))
        for _ in range(100):  # until it waits for what never comes
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    rollout = controller._tasks["t0"].get_coro()
    assert inspect.getcoroutinestate(rollout) == inspect.CORO_SUSPENDED
    rollout.close()  # as the interpreter does at its end; RuntimeError if it waited for anything more
    assert told == [Loading(0), Loaded(0)]
    controller._tasks["t0"]._log_destroy_pending = False
    loop.close()


async def test_arrays_that_were_copied_arrive_as_arrays():
    taken = []
    engine = TabularEngine()
    engine.load_weights = lambda version, weights: taken.append((version, weights))
    controller = RolloutController(
        Worker(engine=engine, rollout=_two_turns), deadline_s=60, tell=lambda _: None,
        deliver=lambda *_: None,
    )  # fmt: skip
    copied = CopiedWeights.of(shards_of({"a": array.array("d", [1.0, 2.0])}))
    controller.obey(LoadWeights(3, copied))
    ((version, weights),) = taken
    assert (version, weights["a"].tolist()) == (3, [1.0, 2.0])


async def _obeyed(rollout, engine=None, *, deadline_s=60, num=1, deliver=None):
    """What a controller tells and delivers of some rollouts, which all end."""
    told, delivered, ended = [], [], asyncio.Event()

    def note(report):
        told.append(report)
        if not isinstance(report, Loading | Loaded | Noted):
            ended.set()

    def keep(trajectory, num_splits):
        if deliver is not None:
            deliver(trajectory)
        delivered.append((trajectory, num_splits))
        if len(delivered) == num:
            ended.set()

    worker = Worker(engine=engine or TabularEngine(), rollout=rollout)
    controller = RolloutController(worker, deadline_s=deadline_s, deliver=keep, tell=note)
    controller.obey(LoadWeights(0, TABLE))
    for n in range(num):
        controller.obey(StartRollout(f"t{n}", "g", "task", "d", 0, n, n))
    async with asyncio.timeout(60):
        await ended.wait()
        await asyncio.sleep(0)
    await controller.close()
    return [r for r in told if not isinstance(r, Loading | Loaded)], delivered, worker.engine


TABLE = json.dumps([[0.0] * 8 for _ in range(8)]).encode()


async def _says(outcome, question, policy):
    await policy.generate([question])
    if isinstance(outcome, (BaseException, type)):
        raise outcome
    return outcome


def _world(outcome):
    return functools.partial(_says, outcome)


@pytest.mark.parametrize(("outcome", "reason", "detail"), [
    (ValueError("no database"), EndReason.FAILED, "no database"), (SystemExit(3), EndReason.FAILED, "SystemExit"),
    (asyncio.CancelledError, EndReason.FAILED, "CancelledError"), (Mask("cut"), EndReason.MASKED, "cut"),
    (Invalid("its own fault"), EndReason.INVALID, "its own fault"),
    (None, EndReason.FAILED, "a rollout must return a reward.*got None"), ("1.0", EndReason.FAILED, "got '1.0'"),
    ((1.0, {}, 3), EndReason.FAILED, "must return a reward"), ((1.0, [1]), EndReason.FAILED, "must return a reward"),
    (("1", {}), EndReason.FAILED, "must return a reward"), (float("nan"), EndReason.FAILED, "must be finite, got nan"),
    (object(), EndReason.FAILED, "a reward must be a number"),
])  # fmt: skip
async def test_whatever_a_world_does_is_one_report(outcome, reason, detail):
    told, delivered, engine = await _obeyed(_world(outcome))
    ((name, found, text),) = told
    assert (name, found, delivered) == ("t0", reason, [])
    assert re.search(detail, text)
    assert not engine._open


async def test_an_invalid_outcome_may_be_returned_too():
    async def world(question, policy):
        return Invalid("the judge is out")

    assert (await _obeyed(world))[0] == [RolloutFailed("t0", EndReason.INVALID, "the judge is out")]


async def test_what_is_finished_is_delivered_with_all_that_is_known_of_it():
    async def world(question, policy):
        (answer,) = await policy.generate([question])
        await asyncio.sleep(0.01)
        return float(answer == 3), {"answer": answer}

    told, delivered, _ = await _obeyed(world, num=3)
    assert told == []
    for number, (t, num_splits) in enumerate(sorted(delivered, key=lambda d: d[0].id)):
        assert (t.id, t.group, t.task, t.domain, t.version) == (f"t{number}", "g", "task", "d", 0)
        assert t.segments[0].token_ids == [number, t.info["answer"]]
        assert t.reward == (t.info["answer"] == 3)
        assert 0.01 <= t.duration_s < 60
        assert num_splits == 0


async def test_a_deadline_ends_a_rollout_and_names_its_task():
    async def world(question, policy):
        await asyncio.sleep(60)

    told, _, _ = await _obeyed(world, deadline_s=0.05)
    assert told == [
        RolloutFailed("t0", EndReason.DEADLINE, "the rollout of task 'task' took more than 0.05 s")
    ]


async def test_a_world_that_hides_its_deadline_has_met_it_all_the_same():
    async def world(question, policy):
        with contextlib.suppress(BaseException):
            await asyncio.sleep(60)
        return 1.0

    ((_, reason, _),), delivered, _ = await _obeyed(world, deadline_s=0.05)
    assert (reason, delivered) == (EndReason.DEADLINE, [])


async def test_a_plain_function_for_a_world_cannot_go_on():
    def world(question, policy):
        return 1.0

    told, _, _ = await _obeyed(world)
    assert "async def world(task, policy)" in told[0].problem
    assert "returned float" in told[0].problem


async def test_what_cannot_be_delivered_has_failed():
    def refuse(trajectory):
        raise OSError("no room")

    ((name, reason, detail),), _, _ = await _obeyed(_world(1.0), deliver=refuse)
    assert (name, reason) == ("t0", EndReason.FAILED)
    assert "no room" in detail


class HardToClose(TabularEngine):
    """Its slots do not close; what the engine returned is no use either."""

    async def close(self, identifier):
        await super().close(identifier)
        raise RuntimeError("the slot does not close")


async def test_an_end_keeps_its_reason_when_closing_fails_too():
    ((_, reason, detail),), _, _ = await _obeyed(_world(Mask("cut")), HardToClose())
    assert reason == EndReason.MASKED
    assert detail.startswith("cut\n")
    assert "the slot does not close" in detail
    ((_, reason, _),), _, _ = await _obeyed(_world(1.0), HardToClose())
    assert reason == EndReason.FAILED


class Nonsense(TabularEngine):
    """Returns ids without log-probs."""

    async def generate(self, identifier, token_ids, *, max_tokens, temperature):
        sample = await super().generate(
            identifier, token_ids, max_tokens=max_tokens, temperature=temperature
        )
        return replace(sample, log_probs=[])


async def test_what_an_engine_got_wrong_cannot_be_hidden_by_a_world():
    async def world(question, policy):
        with contextlib.suppress(Exception):
            await policy.generate([question])
        return 1.0

    ((_, reason, detail),), delivered, _ = await _obeyed(world, Nonsense())
    assert (reason, delivered) == (EndReason.FAILED, [])
    assert "1 ids and 0 log-probs" in detail


async def test_an_order_that_cannot_be_obeyed_is_told_with_its_cause():
    told = []
    worker = Worker(engine=TabularEngine(), rollout=_world(1.0))
    controller = RolloutController(worker, deadline_s=1, deliver=lambda *_: None, tell=told.append)
    controller.obey(LoadWeights(7, b"{"))
    assert told[0] == Loading(7)
    assert "engine.load_weights could not take version 7" in told[1].problem
    assert "JSONDecodeError" in told[1].problem
    worker.engine.retire = None
    controller.obey(RetireVersion(0))
    assert "could not obey RetireVersion" in told[2].problem


async def test_closing_ends_what_runs_without_a_word_and_stops_the_engine(monkeypatch):
    monkeypatch.setattr("longcat_dora._rollout.controller._MOST_CLOSE_S", 600.0)

    class Stoppable(TabularEngine):
        num_stopped = 0

        async def stop(self):
            self.num_stopped += 1

    async def world(question, policy):
        await policy.generate([question])
        await asyncio.sleep(60)

    told = []
    worker = Worker(engine=Stoppable(), rollout=world)
    controller = RolloutController(worker, deadline_s=60, deliver=lambda *_: None, tell=told.append)
    controller.obey(LoadWeights(0, TABLE))
    for n in range(3):
        controller.obey(StartRollout(f"t{n}", "g", "task", "", 0, n, n))
    await asyncio.sleep(0.01)
    controller.obey(AbortRollout("t0"))
    controller.obey(AbortRollout("t9"))  # that nobody here knows
    controller.obey(MoveRollout("t9", 0))
    await asyncio.sleep(0.01)
    assert len(worker.engine._open) == 2
    controller.obey(Stop())
    assert controller.stopped.is_set()
    async with asyncio.timeout(60):  # they hear; it waits for no time-out
        await controller.close()
    assert (worker.engine.num_stopped, worker.engine._open) == (1, {})
    assert told == [Loading(0), Loaded(0)]


class _Words:
    """A renderer of one token a message."""

    def start(self, messages, tools):
        return [len(messages)]

    def extend(self, messages):
        return [len(messages)]

    def parse(self, token_ids, tools):
        return {"role": "assistant", "content": f" {token_ids[0]} "}


async def test_edited_histories_are_counted_and_said_once():
    async def world(question, policy):
        said = [{"role": "user", "content": "?"}]
        answer = await policy.chat(said, tools=[])
        stripped = {**answer, "content": answer["content"].strip()}
        await policy.chat([*said, stripped, {"role": "user", "content": "!"}], tools=[])
        return 1.0

    told, delivered, done = [], [], asyncio.Event()
    worker = Worker(engine=TabularEngine(), rollout=world, renderer=_Words())
    controller = RolloutController(
        worker, deadline_s=60, tell=told.append,
        deliver=lambda *d: (delivered.append(d), len(delivered) == 2 and done.set()),
    )  # fmt: skip
    controller.obey(LoadWeights(0, TABLE))
    for n in range(2):
        controller.obey(StartRollout(f"t{n}", "g", "task", "", 0, n, n))
    async with asyncio.timeout(60):
        await done.wait()
    await controller.close()
    assert [num for _, num in delivered] == [1, 1]
    assert [len(t.segments) for t, _ in delivered] == [2, 2]
    (note,) = [report for report in told if isinstance(report, Noted)]
    assert "in other words" in note.text
