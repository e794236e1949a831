"""Nothing vanishes.

Every rollout has one end with its cause, and a run that cannot go on says why.
"""

import asyncio
import collections
import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from longcat_dora import (
    Invalid,
    LocalRuntime,
    LongcatDoraError,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
    read_trajectories,
)
from longcat_dora.testing import TabularEngine, TabularTrainer, guess, tabular_worker

pytestmark = pytest.mark.usefixtures("importable")
SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


def _tasks(num=4000):
    return (Task(f"n{n}", n) for n in range(num))


def _run(folder, world=None, *, steps=4, trainer=None, tasks=None, engine=None, **config):
    """Run a world, which travels by value, to `steps`.

    Return the reasons of what was not trained on.
    """
    scheduler = config.pop("scheduler", SMALL)
    make = engine or TabularEngine

    def worker():
        return Worker(engine=make(), rollout=world or guess_of)

    config = RunConfig(folder=folder, max_steps=steps, scheduler=scheduler, **config)
    runtime = LocalRuntime(
        config, factory=worker, trainer=trainer or TabularTrainer(learning_rate=0.05),
        tasks=tasks or _tasks(),
    )  # fmt: skip
    runtime.version = runtime.run()
    report = check(folder / "log")
    assert report.breaches == []
    runtime.report = report
    return runtime


async def guess_of(question, policy):
    return await guess(question % 8, policy)


def _details(folder, reason):
    ended = (e for e in read_events(folder / "log") if e["kind"] == "ended")
    return [e["detail"] for e in ended if e["reason"] == reason]


def _returns(outcome):
    async def world(question, policy):
        reward = await guess(question % 8, policy)
        return outcome if question % 7 == 3 else reward

    return world


async def _swallows_and_leaks(question, policy):
    reward = await guess(question % 8, policy)
    if question % 7 == 3:
        raise asyncio.CancelledError  # of something that it ran itself
    return reward


async def _exits(question, policy):
    reward = await guess(question % 8, policy)
    if question % 7 == 3:
        sys.exit(3)
    return reward


async def _times_out_itself(question, policy):
    reward = await guess(question % 8, policy)
    if question % 7 == 3:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    return reward


@pytest.mark.parametrize(("world", "told"), [
    (_returns(None), "got None"),
    (_returns("oops"), "got 'oops'"),
    (_returns("1.0"), "got '1.0'"),
    (_returns((1.0, {}, 3)), "(1.0, {}, 3)"),
    (_returns((1.0, [3])), "(1.0, [3])"),
    (_returns((1.0, {"s": {1, 2}})), "set is not JSON serializable"),
    (_returns(float("nan")), "a reward must be finite, got nan"),
    (_returns(float("inf")), "a reward must be finite, got inf"),
    (_returns(-10**400), "too large"),
    (_returns([1.0]), "must be a number"),
    (_swallows_and_leaks, "CancelledError"),
    (_exits, "SystemExit: 3"),
    (_times_out_itself, "TimeoutError"),
])  # fmt: skip
def test_whatever_goes_wrong_in_a_world_or_after_it_is_a_failure_that_says_so(
    tmp_path, world, told
):
    runtime = _run(tmp_path, world)
    assert runtime.version == 4
    assert runtime.report.num_open == 0
    details = _details(tmp_path, "failed")
    assert details
    assert all(told in detail for detail in details), details[0]
    started = [e for e in read_events(tmp_path / "log") if e["kind"] == "started"]
    assert any(e["attempt"] > 0 for e in started)  # it was tried again


class HardToClose(TabularEngine):
    async def close(self, identifier):
        await super().close(identifier)
        if identifier % 5 == 2:
            raise RuntimeError("the slot does not close")


def test_what_goes_wrong_while_a_session_is_closed_is_a_failure(tmp_path):
    assert _run(tmp_path, engine=HardToClose).report.reasons["failed"] > 0
    assert all("the slot does not close" in d for d in _details(tmp_path, "failed"))


def _broken_world(question, policy):
    async def world():
        reward = await guess(question % 8, policy)
        if question % 5 == 1:
            raise Invalid("the database is down")
        return Invalid("the judge is out") if question % 5 == 2 else reward

    return world()


def test_a_world_may_say_that_it_broke_itself(tmp_path):
    runtime = _run(tmp_path, _broken_world)
    assert runtime.report.reasons["invalid"] > 0
    assert set(_details(tmp_path, "invalid")) == {"the database is down", "the judge is out"}
    trained = {
        t
        for e in read_events(tmp_path / "log")
        if e["kind"] == "committed"
        for t in e["trajectories"]
    }
    invalid = {
        e["trajectory"] for e in read_events(tmp_path / "log") if e.get("reason") == "invalid"
    }
    assert not trained & invalid
    started = collections.Counter(
        e["group"] for e in read_events(tmp_path / "log") if e["kind"] == "started"
    )
    # The limit is the group's: its attempts in all, not those of each seat.
    assert max(started.values()) <= SMALL.group_size * SMALL.max_attempts


async def _blocks(question, policy):
    reward = await guess(question % 8, policy)
    if question == 5:
        time.sleep(600)  # noqa: ASYNC251 - that is what is tested
    return reward


async def _is_deaf(question, policy):
    reward = await guess(question % 8, policy)
    while question == 5:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(600)
    return reward


@pytest.mark.parametrize("world", [_blocks, _is_deaf])
def test_a_controller_that_keeps_no_deadline_is_replaced(tmp_path, world):
    began = time.monotonic()
    runtime = _run(
        tmp_path, world, steps=6, rollout_deadline_s=0.5, kill_after_s=0.5, num_controllers=2,
        scheduler=replace(SMALL, max_attempts=2),
    )  # fmt: skip
    assert runtime.version == 6
    assert runtime.num_restarts >= 1
    assert runtime.report.reasons["deadline"] >= 1
    assert "its controller did not end it" in _details(tmp_path, "deadline")
    assert time.monotonic() - began < 60


def test_a_controller_that_is_stopped_is_replaced(tmp_path):
    config = RunConfig(
        folder=tmp_path, max_steps=40, num_controllers=2, rollout_deadline_s=1, kill_after_s=0.5,
        scheduler=SMALL,
    )  # fmt: skip
    runtime = LocalRuntime(
        config, factory=functools.partial(tabular_worker, 0.02), tasks=_tasks_of_eight(),
        trainer=TabularTrainer(learning_rate=0.05),
        on_step=lambda p: p.step == 5 and os.kill(runtime.handles[0].process.pid, signal.SIGSTOP),
    )  # fmt: skip
    assert runtime.run() == 40
    assert runtime.num_restarts == 1
    assert check(tmp_path / "log").breaches == []


def _tasks_of_eight():
    return (Task(f"n{n}", n % 8) for n in range(10**6))


async def _waits(question, policy):
    await asyncio.sleep(1.5)
    return await guess(question % 8, policy)


def test_what_is_under_way_is_no_stall(tmp_path):
    assert _run(tmp_path, _waits, steps=1, stall_deadline_s=0.5, rollout_deadline_s=30).version == 1


def _slow_to_start():
    time.sleep(1.5)
    return tabular_worker()


def test_loading_a_model_is_no_stall_but_has_a_deadline(tmp_path):
    options = {"trainer": TabularTrainer(learning_rate=0.05), "tasks": _tasks_of_eight()}
    config = RunConfig(folder=tmp_path / "a", max_steps=2, stall_deadline_s=0.5, scheduler=SMALL)
    assert LocalRuntime(config, factory=_by_value(_slow_to_start), **options).run() == 2
    config = RunConfig(
        folder=tmp_path / "b", max_steps=2, start_deadline_s=0.3, max_controller_restarts=1
    )
    with pytest.raises(LongcatDoraError, match=r"not ready after start_deadline_s=0\.3 s"):
        LocalRuntime(config, factory=_by_value(_slow_to_start), **options).run()


def _by_value(function):
    """What does not lie in a module that another process can import."""
    code = function.__code__
    return type(function)(code, {**function.__globals__, "__name__": "__main__"}, code.co_name)


class NeverLoads(TabularEngine):
    def load_weights(self, version, weights):
        if version == 2:
            time.sleep(600)
        super().load_weights(version, weights)


class RaisesAtLoading(TabularEngine):
    def load_weights(self, version, weights):
        if version == 2:
            raise OSError("no room on the card")
        super().load_weights(version, weights)


def test_weights_that_never_load_are_bounded_and_named(tmp_path):
    with pytest.raises(
        LongcatDoraError, match="had not taken the weights of version 2 after load_deadline_s=1 s"
    ):
        _run(tmp_path, engine=NeverLoads, load_deadline_s=1, max_controller_restarts=0, rollout_deadline_s=0.2,
             max_failures_in_a_row=10**6)  # fmt: skip


def test_an_engine_that_raises_at_its_weights_is_the_runs_error(tmp_path):
    with pytest.raises(
        LongcatDoraError, match=r"(?s)load_weights could not take version 2.*no room on the card"
    ):
        _run(tmp_path, engine=RaisesAtLoading)


class BadTrainer(TabularTrainer):
    """Goes wrong in one way at its third step."""

    def __init__(self, method, result):
        super().__init__(learning_rate=0.05)
        self.method, self.result, self.num_steps = method, result, 0

    def train(self, batch):
        self.num_steps += 1
        return self._now("train") or super().train(batch)

    def weights(self):
        return self._now("weights") or super().weights()

    def _now(self, method):
        if method != self.method or self.num_steps < 3:
            return None
        if isinstance(self.result, Exception):
            raise self.result
        return self.result[0]


class ReturnsNone(TabularTrainer):
    num_steps = 0

    def train(self, batch):
        self.num_steps += 1
        return super().train(batch) if self.num_steps < 3 else None


@pytest.mark.parametrize(("trainer", "error", "told"), [
    (ReturnsNone(), LongcatDoraError, r"trainer\.train must return a mapping.*step 3.*None"),
    (BadTrainer("train", [[1]]), LongcatDoraError, r"trainer\.train must return a mapping"),
    (BadTrainer("train", [{"loss": object()}]), LongcatDoraError, r"metrics that are numbers, at step 3"),
    (BadTrainer("train", ZeroDivisionError("by zero")), ZeroDivisionError, "by zero"),
    (BadTrainer("weights", ["text"]), LongcatDoraError, r"trainer\.weights must return bytes.*step 3"),
])  # fmt: skip
def test_a_trainer_that_raises_or_returns_nonsense_ends_the_run_before_anything_is_committed(
    tmp_path, trainer, error, told
):
    with pytest.raises(error, match=told) as caught:
        _run(tmp_path, trainer=trainer)
    if error is ZeroDivisionError:
        assert caught.value.__notes__ == ["(raised by trainer.train, step 3)"]
    report = check(tmp_path / "log")
    assert report.breaches == []
    assert len([e for e in read_events(tmp_path / "log") if e["kind"] == "committed"]) == 2


async def _constant(question, policy):
    await guess(question % 8, policy)
    return 0.5


def test_a_run_in_which_nothing_is_to_be_learned_ends_and_says_so(tmp_path, caplog):
    with pytest.raises(
        LongcatDoraError, match=r"no group of the last 4\d had anything to learn from"
    ):
        _run(tmp_path / "a", _constant, max_groups_without_signal=40, tasks=_tasks(10**9))
    assert _run(tmp_path / "b", _constant, tasks=_tasks(5)).version == 0
    assert "the last 5 groups had nothing to learn from" in caplog.text


async def _never_ends(question, policy):
    await guess(question % 8, policy)
    await asyncio.sleep(60)


def test_a_run_in_which_all_meet_their_deadline_ends_and_says_so(tmp_path):
    with pytest.raises(
        LongcatDoraError, match=r"20 rollouts in a row ended without a result \(deadline 20\)"
    ):
        _run(tmp_path, _never_ends, rollout_deadline_s=0.1, max_failures_in_a_row=20)


def test_restarts_are_a_rate_and_a_step_is_progress(tmp_path):
    killed = []

    def kill(progress):
        pid = runtime.handles[0].process.pid
        if pid not in killed:  # steps may be waiting that need no new rollouts
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    config = RunConfig(folder=tmp_path, max_steps=20, max_controller_restarts=2, scheduler=SMALL)
    runtime = LocalRuntime(
        config, factory=tabular_worker, trainer=TabularTrainer(learning_rate=0.05),
        tasks=_tasks_of_eight(), on_step=kill,
    )  # fmt: skip
    assert runtime.run() == 20
    assert runtime.num_restarts >= len(killed) - 1 > config.max_controller_restarts


class SlowToSave(TabularTrainer):
    """Notes which thread does its work."""

    def __init__(self):
        super().__init__(learning_rate=0.02)
        self.threads = collections.defaultdict(set)

    def _note(self, method):
        self.threads[method].add(threading.current_thread())

    def train(self, batch):
        self._note("train")
        return super().train(batch)

    def weights(self):
        self._note("weights")
        return super().weights()

    def save(self, folder):
        self._note("save")
        time.sleep(3)
        super().save(folder)


def test_the_loop_never_blocks_and_does_none_of_the_trainers_work(tmp_path):
    trainer = SlowToSave()
    config = RunConfig(
        folder=tmp_path, max_steps=4, save_every=2,
        scheduler=replace(SMALL, soft_staleness=60, hard_staleness=80, max_running=4),
    )  # fmt: skip
    LocalRuntime(
        config, factory=functools.partial(tabular_worker, 0.05), trainer=trainer,
        tasks=_tasks_of_eight(),
    ).run()  # fmt: skip
    own = threading.current_thread()
    assert set(trainer.threads) == {"train", "weights", "save"}
    assert all(own not in threads for threads in trainer.threads.values())
    events = list(read_events(tmp_path / "log"))
    saved = next(n for n, e in enumerate(events) if e["kind"] == "saved")
    begin = next(n for n in range(saved, 0, -1) if events[n]["kind"] == "committed")
    times = [e["at"] for e in events[begin : saved + 1]]
    assert times[-1] - times[0] > 2.9
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.5


SCRIPT = """
    import sys
    from longcat_dora import LocalRuntime, RunConfig, Task
    from longcat_dora.testing import TabularTrainer, tabular_worker
    config = RunConfig(folder=sys.argv[1], max_steps=10**6, save_every=10**6)
    LocalRuntime(config, factory=tabular_worker, trainer=TabularTrainer(learning_rate=0.01),
                 tasks=(Task(f"n{n}", n % 8) for n in range(10**9)),
                 on_step=lambda p: p.step == 5 and print("go", flush=True)).run()
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path, signum):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for number in (signal.SIGINT, signal.SIGHUP):  # a child inherits what is ignored here
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "run")], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "go\n"
    process.send_signal(signum)
    _, error = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in error
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    events = list(read_events(tmp_path / "run" / "log"))
    version = [e["version"] for e in events if e["kind"] == "published"][-1]
    assert int(checkpoint.name.removeprefix("step-")) == version >= 5
    assert not Path(f"/proc/{process.pid}").exists()


class Nonsense(TabularEngine):
    """Returns what no engine should, now and then."""

    how = "short"

    async def generate(self, identifier, token_ids, *, max_tokens, temperature):
        sample = await super().generate(
            identifier, token_ids, max_tokens=max_tokens, temperature=temperature
        )
        if identifier % 6:
            return sample
        return {
            "short": replace(sample, log_probs=[]),
            "nan": replace(sample, log_probs=[float("nan")]),
            "positive": replace(sample, log_probs=[1.5]),
            "negative": replace(sample, token_ids=[-1]),
            "huge": replace(sample, token_ids=[2**31]),
            "text": replace(sample, token_ids=["a"]),
            "none": None,
        }[self.how]


async def _swallows(question, policy):
    try:
        return await guess(question % 8, policy)
    except Exception:
        return 0.5


@pytest.mark.parametrize("how", ["short", "nan", "positive", "negative", "huge", "text", "none"])
def test_what_cannot_be_trained_on_is_refused_where_it_is_recorded(tmp_path, how):
    engine = type("Engine", (Nonsense,), {"how": how})
    runtime = _run(tmp_path, _swallows, engine=engine, steps=3)  # the world hides it
    assert runtime.report.reasons["failed"] > 0
    assert all(
        "the engine must return ids and a log-prob" in d for d in _details(tmp_path, "failed")
    )
    for trajectory in read_trajectories(tmp_path / "log"):
        assert all(0 <= t < 8 for s in trajectory.segments for t in s.token_ids)


class CutsShort(TabularEngine):
    async def generate(self, identifier, token_ids, *, max_tokens, temperature):
        sample = await super().generate(
            identifier, token_ids, max_tokens=max_tokens, temperature=temperature
        )
        return replace(sample, finish_reason="length" if identifier % 2 else "stop")


async def _tells_how_it_ended(question, policy):
    assert policy.finish_reason is None
    reward = await guess(question % 8, policy)
    return reward, {"heard": policy.finish_reason}


class MasksByLength(TabularTrainer):
    def __init__(self):
        super().__init__(learning_rate=0.05)
        self.seen = []

    def train(self, batch):
        self.seen += [(t.is_truncated, t.info["heard"], t.segments[0].ends) for t in batch]
        return super().train(batch)


def test_why_an_answer_ended_reaches_world_and_trainer(tmp_path):
    trainer = MasksByLength()
    _run(tmp_path, _tells_how_it_ended, engine=CutsShort, trainer=trainer)
    assert {heard for _, heard, _ in trainer.seen} == {"stop", "length"}
    for is_truncated, heard, ends in trainer.seen:
        assert ends == [(2, heard)]
        assert is_truncated == (heard == "length")
    assert any(e.get("truncated") for e in read_events(tmp_path / "log"))
