"""Clocks and signals: what is stopped, blocked, late or told to end, and what is none of these."""

import asyncio
import collections
import contextlib
import functools
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
    LocalRuntime,
    LongcatDoraError,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
)
from longcat_dora.testing import TabularEngine, TabularTrainer, guess, tabular_worker

pytestmark = pytest.mark.usefixtures("importable")
SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


async def guess_of(question, policy):
    return await guess(question % 8, policy)


def _run(folder, world=None, *, steps=4, engine=TabularEngine, **config):
    """Run a world, which travels by value, to `steps`."""

    def worker():
        return Worker(engine=engine(), rollout=world or guess_of)

    config = RunConfig(folder=folder, max_steps=steps, **{"scheduler": SMALL, **config})
    tasks = (Task(f"n{n}", n) for n in range(4000))
    trainer = TabularTrainer(learning_rate=0.05)
    runtime = LocalRuntime(config, factory=worker, trainer=trainer, tasks=tasks)
    runtime.version = runtime.run()
    runtime.report = check(folder / "log")
    assert runtime.report.breaches == []
    return runtime


def _details(folder, reason):
    ended = (e for e in read_events(folder / "log") if e["kind"] == "ended")
    return [e["detail"] for e in ended if e["reason"] == reason]


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
    runtime = _run(
        tmp_path, world, steps=6, rollout_deadline_s=1, kill_after_s=0.2, num_controllers=2,
        scheduler=replace(SMALL, max_attempts=1), max_controller_restarts=100,
    )  # fmt: skip
    assert runtime.version == 6
    assert runtime.num_restarts >= 1
    assert runtime.report.reasons["deadline"] >= 1
    assert "its controller did not end it" in _details(tmp_path, "deadline")


def test_a_controller_that_is_stopped_is_replaced(tmp_path):
    stopped = []

    def stop(progress):
        if progress.step == 5:
            stopped.append(runtime.handles[0])
            os.kill(stopped[0].process.pid, signal.SIGSTOP)

    config = RunConfig(
        folder=tmp_path, max_steps=20, num_controllers=2, rollout_deadline_s=1, kill_after_s=0.2,
        scheduler=SMALL, max_controller_restarts=100,
        load_deadline_s=5,  # it may be stopped while it takes weights
    )  # fmt: skip
    runtime = LocalRuntime(
        config, factory=functools.partial(tabular_worker, 0.02), tasks=_tasks_of_eight(),
        trainer=TabularTrainer(learning_rate=0.05), on_step=stop,
    )  # fmt: skip
    assert runtime.run() == 20
    assert runtime.num_restarts >= 1
    assert stopped[0].process.returncode == -signal.SIGKILL
    assert check(tmp_path / "log").breaches == []


def _tasks_of_eight():
    return (Task(f"n{n}", n % 8) for n in range(10**6))


async def _waits(question, policy):
    await asyncio.sleep(1)
    return await guess(question % 8, policy)


def test_what_is_under_way_is_no_stall(tmp_path):
    assert _run(tmp_path, _waits, steps=1, stall_deadline_s=0.2).version == 1


def _slow_to_start():
    time.sleep(1)
    return tabular_worker()


def test_loading_a_model_is_no_stall_but_has_a_deadline(tmp_path):
    options = {"trainer": TabularTrainer(learning_rate=0.05), "tasks": _tasks_of_eight()}
    config = RunConfig(folder=tmp_path / "a", max_steps=2, stall_deadline_s=0.2, scheduler=SMALL)
    assert LocalRuntime(config, factory=_by_value(_slow_to_start), **options).run() == 2
    config = RunConfig(
        folder=tmp_path / "b", max_steps=2, start_deadline_s=0.1, max_controller_restarts=1
    )
    with pytest.raises(LongcatDoraError, match=r"not ready after start_deadline_s=0\.1 s"):
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
        LongcatDoraError, match=r"not taken the weights of version \d after load_deadline_s=1\.5 s"
    ):
        _run(tmp_path, engine=NeverLoads, load_deadline_s=1.5, max_controller_restarts=0,
             rollout_deadline_s=0.2, max_failures_in_a_row=10**6)  # fmt: skip


def test_an_engine_that_raises_at_its_weights_is_the_runs_error(tmp_path):
    with pytest.raises(
        LongcatDoraError, match=r"(?s)load_weights could not take version 2.*no room on the card"
    ):
        _run(tmp_path, engine=RaisesAtLoading)


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
        if not self.threads["save"]:
            time.sleep(3)
        self._note("save")
        super().save(folder)


class Lateness(threading.Thread):
    """How late this machine lets a thread be at most that wants to run all the time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.worst_s, self.is_over = 0.0, threading.Event()

    def run(self):
        before = time.monotonic()
        while not self.is_over.wait(0.01):
            now = time.monotonic()
            self.worst_s, before = max(self.worst_s, now - before), now


class BeatingRuntime(LocalRuntime):
    """Notes how late its loop is at most."""

    worst_s = 0.0

    def spawn(self, place):
        self._beats = asyncio.create_task(self._beat())
        return super().spawn(place)

    async def _beat(self):
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.worst_s, before = max(self.worst_s, now - before), now


def test_the_loop_never_blocks_and_does_none_of_the_trainers_work(tmp_path):
    trainer = SlowToSave()
    config = RunConfig(
        folder=tmp_path, max_steps=3, save_every=2,
        scheduler=replace(SMALL, soft_staleness=60, hard_staleness=80, max_running=4),
    )  # fmt: skip
    late = Lateness()
    late.start()
    runtime = BeatingRuntime(
        config, factory=functools.partial(tabular_worker, 0.05), trainer=trainer,
        tasks=_tasks_of_eight(),
    )  # fmt: skip
    runtime.run()
    late.is_over.set()
    assert 0 < runtime.worst_s < 0.5 + late.worst_s
    own = threading.current_thread()
    assert set(trainer.threads) == {"train", "weights", "save"}
    assert all(own not in threads for threads in trainer.threads.values())
    events = list(read_events(tmp_path / "log"))
    saved = next(n for n, e in enumerate(events) if e["kind"] == "saved")
    begin = next(n for n in range(saved, 0, -1) if events[n]["kind"] == "committed")
    assert events[saved]["at"] - events[begin]["at"] > 2.9
    assert "produced" in {e["kind"] for e in events[begin:saved]}  # they go on meanwhile


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
    _, error = process.communicate(timeout=120)
    assert "KeyboardInterrupt" in error
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    events = list(read_events(tmp_path / "run" / "log"))
    version = [e["version"] for e in events if e["kind"] == "published"][-1]
    assert int(checkpoint.name.removeprefix("step-")) == version >= 5
    assert not Path(f"/proc/{process.pid}").exists()


class _InterruptedTrainer(TabularTrainer):
    """Somebody presses Ctrl-C while it takes its second step."""

    def __init__(self, happened):
        super().__init__(learning_rate=0.01)
        self.happened, self.num = happened, 0

    def train(self, batch):
        self.num += 1
        if self.num == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        metrics = super().train(batch)
        self.happened.append(f"step {self.num}")
        return metrics


def test_who_stops_a_run_in_a_step_is_told_before_it_is_finished(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored where this began
    happened = []
    runtime = LocalRuntime(
        RunConfig(folder=tmp_path, max_steps=10**6, save_every=10**6),
        factory=tabular_worker, trainer=_InterruptedTrainer(happened),
        tasks=(Task(f"n{n}", n % 8) for n in range(10**9)),
        on_stop=lambda: happened.append("told"),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        runtime.run()
    assert happened == ["step 1", "told", "step 2"]
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000002"]
