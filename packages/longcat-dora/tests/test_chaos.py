"""Faults at random moments, each many times.

Nothing is lost, nothing is trained on twice, and it goes on.
"""

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from longcat_dora import (
    Finished,
    LocalRuntime,
    LongcatDoraError,
    Payload,
    PayloadFile,
    RolloutManager,
    RunConfig,
    SchedulerConfig,
    Task,
    check,
    read_events,
    read_trajectories,
    replay,
)
from longcat_dora.testing import TabularTrainer, tabular_worker

SCRIPT = Path(__file__).with_name("chaos_run.py")
FEW = 3
"""Kills in the suite; `just long` has many more."""


def _command(folder, *options):
    return [sys.executable, str(SCRIPT), str(folder), *options]


def _ledger(folder):
    """Check the log, and that produced = committed + evicted or ended; return the report."""
    events = list(read_events(folder / "log"))
    report = check(events)
    assert report.breaches == []
    assert report.num_started == report.num_committed + report.num_ended + report.num_open
    return report


def _processes(session):
    """Those of a session, controllers included: they have process groups of their own."""
    found = subprocess.run(["pgrep", "-s", str(session)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def _until_gone(session, seconds=60.0):
    """Wait until no process of a session is left."""
    deadline = time.monotonic() + seconds
    while _processes(session):
        assert time.monotonic() < deadline, "controllers outlive their manager"
        time.sleep(0.02)


@pytest.fixture
def chaos_run(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import chaos_run

    return chaos_run


@pytest.mark.parametrize("everything", [False, True])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    tmp_path, everything, chaos_run
):
    """The trainer, the queue's owner and the publisher are one process: kill it, or all at once."""
    kill_again_and_again(tmp_path, chaos_run, everything=everything, num=FEW, steps=60)


@pytest.mark.long
def test_everything_is_killed_two_hundred_times(tmp_path, chaos_run):
    kill_again_and_again(tmp_path, chaos_run, everything=True, num=200, steps=1200)


def _steps_in(folder):
    """How many steps a log holds, read as it grows."""
    log = folder / "log" / "events.jsonl"
    return log.read_bytes().count(b'"committed"') if log.is_file() else 0


def _kill_when(process, rng, *, folder, at_step, early):
    """Wait for the moment: soon after the start, or soon after a step.

    No clock decides how far it came.
    """
    if early:  # some steps more, from none
        at_step = _steps_in(folder) + rng.randrange(3)
        time.sleep(rng.uniform(0, 0.5))
    while _steps_in(folder) < at_step:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.02))


def _holds_at(folder, at_step):
    """Where a run that is to be killed holds at the latest."""
    return max(_steps_in(folder), at_step) + 8


def kill_again_and_again(tmp_path, chaos_run, *, everything, num, steps):
    """Kill a run at random moments, let it end, and see that nothing is lost or there twice.

    Return what the checker says, and how often each trajectory was trained on.
    """
    rng = random.Random(everything)
    for kill in range(num + 1):
        at_step = steps * kill // (num + 1)
        hold = [] if kill == num else [f"hold={_holds_at(tmp_path, at_step)}"]
        process = subprocess.Popen(
            _command(tmp_path, f"steps={steps}", *hold),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if kill == num:
            break
        _kill_when(process, rng, folder=tmp_path, at_step=at_step, early=kill % 4 == 1)
        assert process.poll() is None, process.communicate()
        for pid in _processes(process.pid) if everything else [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
        _until_gone(process.pid)
        if (tmp_path / "log" / "events.jsonl").is_file():
            _ledger(tmp_path)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    report = _ledger(tmp_path)
    assert report.num_open == 0
    assert max(report.staleness) <= 2
    chaos_run.recount.agree(tmp_path / "log", check(tmp_path / "log"))
    taken = list(replay(tmp_path / "log", chaos_run.trainer(steps)))
    assert [step.version for step in taken] == [*range(1, steps + 1)]
    assert all(step.is_exact for step in taken)
    # What is trained on is in the log whole, and once.
    committed = Counter(
        name
        for e in read_events(tmp_path / "log")
        if e["kind"] == "committed"
        for name in e["trajectories"]
    )
    on_disk = {trajectory.id for trajectory in read_trajectories(tmp_path / "log")}
    assert set(committed) <= on_disk
    return report, committed


def test_a_synchronous_run_that_is_killed_ends_with_the_same_bits(tmp_path):
    whole = subprocess.run(
        _command(tmp_path / "whole", "sync"), capture_output=True, text=True, check=True
    )
    rng = random.Random(0)
    for kill in range(FEW + 1):
        at_step = 40 * kill // (FEW + 1)
        hold = [f"hold={_holds_at(tmp_path / 'cut', at_step)}"] if kill < FEW else []
        process = subprocess.Popen(
            _command(tmp_path / "cut", "sync", *hold), stdout=subprocess.PIPE, text=True
        )
        if kill < FEW:
            _kill_when(process, rng, folder=tmp_path / "cut", at_step=at_step, early=kill == 1)
            assert process.poll() is None
            process.kill()
        out, _ = process.communicate(timeout=300)
    assert out == whole.stdout
    assert set(_ledger(tmp_path / "cut").staleness) == {0}


def test_killed_controllers_are_noticed_and_replaced_at_once(tmp_path):
    rng, noticed, recovered = random.Random(0), [], []
    config = RunConfig(
        folder=tmp_path, max_steps=10**6, num_controllers=2, max_controller_restarts=10**6, save_every=10**6,
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, max_attempts=1000, max_running=16),
    )  # fmt: skip
    tasks = (Task(f"n{n}", n % 8) for n in range(10**6))
    runtime = LocalRuntime(
        config, factory=functools.partial(tabular_worker, 0.01),
        trainer=TabularTrainer(learning_rate=0.01), tasks=iter(tasks),
        on_step=lambda _: done.is_set() and runtime.crash(StopIteration()),
    )  # fmt: skip
    done = threading.Event()

    def kill():
        while len(recovered) < FEW:
            time.sleep(rng.uniform(0.02, 0.2))
            place = rng.randrange(2)
            if len(runtime.handles) < 2 or not runtime.handles[place].is_ready:
                continue
            victim = runtime.handles[place]
            os.kill(victim.process.pid, signal.SIGKILL)
            began = time.monotonic()
            while runtime.handles[place] is victim:
                time.sleep(0.002)
            noticed.append(time.monotonic() - began)
            while not runtime.handles[place].is_ready:
                time.sleep(0.002)
            recovered.append(time.monotonic() - began)
        done.set()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RuntimeError):
        runtime.run()
    report = _ledger(tmp_path)
    assert report.reasons["controller_lost"] > 0
    assert report.num_committed > 0
    assert sorted(noticed)[len(noticed) // 2] < 5.0  # of a machine that may be busy
    assert sorted(recovered)[len(recovered) // 2] < 30.0


def test_a_world_that_dies_is_never_a_reward(tmp_path):
    """It goes on until enough of them have died with a question unanswered."""
    end = tmp_path / "end"
    process = subprocess.Popen(
        _command(tmp_path, "env", "steps=1000000", f"end={end}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    rng, killed, log = random.Random(0), 0, tmp_path / "log" / "events.jsonl"
    while process.poll() is None:
        time.sleep(rng.uniform(0.01, 0.1))
        if log.is_file() and log.read_bytes().count(b"ConnectionError: the world is gone") >= FEW:
            end.touch()
            break
        found = subprocess.run(
            ["pgrep", "-s", str(process.pid), "-x", "cat"], capture_output=True, text=True
        )
        worlds = found.stdout.split()
        if worlds:
            try:
                os.kill(int(rng.choice(worlds)), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    _, error = process.communicate(timeout=300)
    assert b"KeyboardInterrupt: SIGTERM" in error
    assert killed >= FEW
    report = _ledger(tmp_path)
    assert report.reasons["failed"] >= FEW
    for trajectory in read_trajectories(tmp_path / "log"):
        question, answer = trajectory.segments[0].token_ids
        assert trajectory.reward == float(answer == (3 * question + 1) % 8)


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(tmp_path):
    for limit in (3_000, 20_000, 60_000):
        done = subprocess.run(_command(tmp_path, f"limit={limit}"), capture_output=True, text=True)
        assert done.returncode == 1
        assert "cannot write" in done.stderr
        assert "File too large" in done.stderr
        assert "Traceback" not in done.stderr
        _ledger(tmp_path)
    done = subprocess.run(_command(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert _ledger(tmp_path).num_open == 0


class _Controller:
    def __init__(self):
        self.running, self.is_ready, self.orders = set(), True, []

    def post(self, order):
        self.orders.append(order)


def test_what_is_delivered_twice_counts_once(tmp_path):
    config = SchedulerConfig(groups_per_batch=1, group_size=2)
    manager = RolloutManager(tmp_path, config, tasks=iter([Task("a", 0), Task("b", 1)]))
    manager.controllers = [_Controller()]
    manager.feed()
    file = PayloadFile(tmp_path, manager.writer())
    rng = random.Random(0)
    for order in list(manager.controllers[0].orders):
        told = Finished(order.trajectory, 0, [0], "", rng.random(), 3, 1, 0.1)
        payload = file.append([b"x"])
        for _ in range(rng.randint(1, 3)):
            manager.finished(manager.controllers[0], told, payload)
        manager.failed(manager.controllers[0], order.trajectory, "failed", "late, and wrong")
    manager.queue.read = lambda names, **_: []
    manager.filter()
    assert manager.lease() is not None
    manager.commit()
    manager.finished(manager.controllers[0], told, payload)
    manager.end()
    manager.close()
    report = check(read_events(tmp_path))
    assert report.breaches == []
    assert (report.num_started, report.num_committed) == (4, 2)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    rng, real = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + rng.uniform(-1e6, 1e6))
    config = RunConfig(folder=tmp_path, max_steps=10, rollout_deadline_s=5, stall_deadline_s=5)
    tasks = (Task(f"n{n}", n % 8) for n in range(400))
    runtime = LocalRuntime(
        config, factory=tabular_worker, trainer=TabularTrainer(learning_rate=0.1), tasks=tasks
    )
    assert runtime.run() == 10
    times = [e["at"] for e in read_events(tmp_path / "log")]
    assert times == sorted(times)
    assert _ledger(tmp_path).num_open == 0


def test_an_altered_trajectory_is_named(tmp_path):
    file = PayloadFile(tmp_path, "payloads-000.bin")
    payload = file.append([b"hello ", b"world"])
    assert (payload.offset, payload.length) == (0, 11)
    manager = RolloutManager(tmp_path, SchedulerConfig(), tasks=iter([]))
    manager.close()
    again = RolloutManager(
        tmp_path, SchedulerConfig(), tasks=iter([])
    )  # what was on a disk is checked
    assert again._reader.read(payload) == b"hello world"
    (tmp_path / "payloads-000.bin").write_bytes(b"hellO world")
    with pytest.raises(LongcatDoraError, match="must have checksum"):
        again._reader.read(payload)
    with pytest.raises(LongcatDoraError, match="No such file"):
        again._reader.read(Payload("payloads-009.bin", 0, 1, 0))


def test_memory_is_written_to_again_only_when_nobody_reads_it():
    weights = pytest.importorskip("longcat_dora._runtime.weights")
    pool, reader, other = weights.WeightsPool(), object(), object()
    first = pool.publish(b"a" * 100)
    first.users |= {reader, other}
    second = pool.publish(b"b" * 100)
    second.users.add(reader)
    assert second is not first
    pool.release(reader, first)
    third = pool.publish(b"c" * 100)
    assert third not in (first, second)
    pool.release(other)  # it died
    assert pool.publish(b"d" * 100) is first
    with pytest.raises(AssertionError):
        second.write(b"e" * 100)
    assert pool.publish(b"f" * 50).size == 50
