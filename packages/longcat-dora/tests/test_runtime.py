"""Whole runs with real processes; some of them are killed."""

import asyncio
import functools
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from longcat_dora import (
    EventLog,
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
from longcat_dora._runtime.status import Metrics
from longcat_dora.testing import NUM_TOKENS, TabularEngine, TabularTrainer, tabular_worker

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


def _tasks(num=400):
    return (Task(f"n{n}", n % NUM_TOKENS, f"d{n % 2}") for n in range(num))


def _run(folder, *, steps=12, factory=tabular_worker, tasks=None, trainer=None, **more):
    seen = []
    groups, on_step = more.pop("groups", []), more.pop("on_step", seen.append)
    runtime = LocalRuntime(
        RunConfig(folder=folder, max_steps=steps, scheduler=SMALL, save_every=4, **more),
        factory=factory, trainer=trainer or TabularTrainer(learning_rate=0.3),
        tasks=tasks or _tasks(), on_step=on_step, on_group=groups.append,
    )  # fmt: skip
    version = runtime.run()
    assert len(runtime._pool._all) <= 4  # memory for weights is used again, not added to
    return version, seen


def test_a_run_learns_and_keeps_the_contract(tmp_path):
    groups = []
    version, seen = _run(
        tmp_path, steps=25, num_controllers=2, trainer=TabularTrainer(), groups=groups,
        factory=functools.partial(tabular_worker, 0.01),
    )  # fmt: skip
    assert version == 25
    rewards = [sum(t.reward for t in group) / len(group) for group in groups]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.2
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.num_open == 0
    assert report.num_committed == sum(len(progress.batch) for progress in seen)
    assert max(progress.metrics["live_versions"] for progress in seen) >= 2
    finished = {trajectory.id: trajectory for trajectory in read_trajectories(tmp_path / "log")}
    assert all(finished[t.id] == t for progress in seen for t in progress.batch)
    assert len(finished) > report.num_committed  # those without a signal are there too


def _worker_that_leaves_its_id(folder):
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").rename(folder / "id")
    return tabular_worker()


def _id_of_worker(folder):
    """Wait for it: no trainer is there yet."""
    until = time.monotonic() + 120
    while not (folder / "id").exists():
        assert time.monotonic() < until, "no controller has begun"
        time.sleep(0.02)
    return int((folder / "id").read_text())


def test_controllers_build_their_workers_while_the_trainer_is_made(tmp_path):
    def make():
        _id_of_worker(tmp_path)
        return TabularTrainer(learning_rate=0.3)

    factory = functools.partial(_worker_that_leaves_its_id, tmp_path)
    assert _run(tmp_path / "run", steps=2, factory=factory, trainer=make)[0] == 2


def test_controllers_end_with_a_trainer_that_cannot_be_made(tmp_path):
    def make():
        _id_of_worker(tmp_path)
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        _run(tmp_path / "run", factory=functools.partial(_worker_that_leaves_its_id, tmp_path),
             trainer=make)  # fmt: skip
    with pytest.raises(ProcessLookupError):
        os.kill(_id_of_worker(tmp_path), 0)


def test_a_trainer_is_there_once_it_is_made(tmp_path):
    made, threads = TabularTrainer(), []

    def make():  # where it will train: some libraries keep settings by thread
        threads.append(threading.current_thread().name)
        return made

    runtime = LocalRuntime(
        RunConfig(folder=tmp_path, max_steps=1, scheduler=SMALL), factory=tabular_worker,
        trainer=make, tasks=_tasks(),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="made when the run begins"):
        _ = runtime.trainer
    runtime.run()
    assert runtime.trainer is made
    assert [name.partition("_")[0] for name in threads] == ["trainer"]


def test_a_function_that_makes_no_trainer_is_refused(tmp_path):
    with pytest.raises(TypeError, match="str lacks train, weights, save, restore"):
        _run(tmp_path, trainer=lambda: "a trainer")


async def _world_with_a_straggler(question, policy):
    (answer,) = await policy.generate([abs(question)])
    if question < 0:
        await asyncio.Event().wait()
    return float(answer == question)


def _straggling_worker():
    return Worker(engine=TabularEngine(), rollout=_world_with_a_straggler)


@pytest.fixture
def importable(request, monkeypatch):
    """Let spawned processes import this file, whose name is relative to the root of the tests."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.usefixtures("importable")
def test_a_straggler_that_never_ends_is_discarded_at_the_bound_and_the_run_goes_on(tmp_path):
    config = RunConfig(
        folder=tmp_path, max_steps=12,
        scheduler=SchedulerConfig(
            groups_per_batch=2, group_size=4, soft_staleness=2, hard_staleness=2, at_bound="discard",
        ),
    )  # fmt: skip
    tasks = itertools.chain([Task("slow0", -3), Task("slow1", -4)], _tasks())
    trainer = TabularTrainer(learning_rate=0.3)
    runtime = LocalRuntime(config, factory=_straggling_worker, trainer=trainer, tasks=tasks)
    assert runtime.run() == 12
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.num_open == 0
    assert max(report.staleness) <= 2
    assert report.reasons["expired"] > 0
    assert report.reasons["deadline"] == 0  # it was not waited for


def test_the_sampled_reward_is_that_of_all_groups_since_the_last_step(tmp_path):
    groups, before, known = [], [0], [0.0]

    def compare(progress):
        new = [t.reward for group in groups[before[-1] :] for t in group]
        known.append(sum(new) / len(new) if new else known[-1])
        assert progress.metrics["sampled_reward"] == pytest.approx(known[-1])
        before.append(len(groups))

    _run(tmp_path, steps=6, groups=groups, on_step=compare)
    assert len(before) == 7


def test_where_no_group_ended_since_the_last_step_the_last_reward_stands(tmp_path):
    metrics, rewards = Metrics(tmp_path), [[], [1.0, 0.0, 0.5], [], [0.25]]
    manager = MagicMock(take_rewards=lambda: rewards.pop(0))
    manager.age_of_oldest_s.return_value = 0.0
    metrics.begin()
    metrics.end_step()
    said = [metrics.record(manager, [], {}, at=n, num_restarts=0) for n in range(4)]
    assert [record["sampled_reward"] for record in said] == [0.0, 0.5, 0.5, 0.25]


def test_a_run_ends_when_the_tasks_do(tmp_path):
    version, _ = _run(tmp_path, steps=1000, tasks=_tasks(12))
    assert 0 < version <= 12


def test_a_killed_controller_is_replaced_and_nothing_is_lost(tmp_path):
    tasks = iter([Task(f"n{n}", n % 3 if n < 20 else 3) for n in range(60)])
    dies = functools.partial(tabular_worker, faults={3: "die"})
    with pytest.raises(LongcatDoraError, match="max_controller_restarts=2 since the last step"):
        _run(tmp_path, factory=dies, tasks=tasks, steps=100, max_controller_restarts=2)
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.reasons["controller_lost"] >= 3


def _with_a_child(place):
    """As engines that have processes of their own."""
    child = subprocess.Popen(["sleep", "600"])
    (place / f"{child.pid}").touch()
    engine = TabularEngine()
    if place.name == "stops":

        async def stop():
            child.kill()
            (place / "stopped").touch()

        engine.stop = stop
    return replace(tabular_worker(), engine=engine)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("name", ["stops", "killed"])
def test_what_an_engine_started_ends_with_its_controller(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    _run(tmp_path / "run", steps=3, factory=functools.partial(_with_a_child, place))
    assert (place / "stopped").exists() == (name == "stops")
    (child,) = [int(path.name) for path in place.iterdir() if path.name.isdigit()]
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_failing_and_endless_rollouts_are_data(tmp_path):
    factory = functools.partial(tabular_worker, faults={2: "raise", 5: "hang"})
    version, _ = _run(tmp_path, factory=factory, steps=6, rollout_deadline_s=0.5)
    assert version == 6
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.reasons["failed"] > 0
    assert report.reasons["deadline"] > 0
    ended = [
        e for e in read_events(tmp_path / "log") if e.get("reason") == "failed" and "detail" in e
    ]
    assert "the world broke" in ended[0]["detail"]


def test_a_run_whose_rollouts_only_fail_ends_and_shows_why(tmp_path):
    worker = functools.partial(tabular_worker, faults=dict.fromkeys(range(NUM_TOKENS), "raise"))
    with pytest.raises(LongcatDoraError, match=r"(?s)7 rollouts in a row raised.*Traceback"):
        _run(tmp_path, factory=worker, max_failures_in_a_row=7)
    assert check(read_events(tmp_path / "log")).breaches == []


def test_a_worker_that_cannot_be_built_is_one_clear_error(tmp_path):
    with pytest.raises(LongcatDoraError, match="unexpected keyword argument 'model'"):
        _run(tmp_path, factory=functools.partial(tabular_worker, model="absent"))


SCRIPT = """
    import functools, sys
    from pathlib import Path
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
    from longcat_dora.testing import TabularTrainer, tabular_worker
    if __name__ == "__main__":
        print(LocalRuntime(
            RunConfig(folder=Path(sys.argv[1]), max_steps=int(sys.argv[2]), save_every=5, scheduler=
                SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)),
            factory=functools.partial(tabular_worker, 0.005),
            trainer=TabularTrainer(learning_rate=0.05),
            tasks=(Task(f"n{n}", n % 8) for n in range(10**9)),
        ).run())
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_continues_from_its_folder(tmp_path, signum):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path / "run")]
    # Started in the background, this process may ignore Ctrl-C, and its children would inherit
    # that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # It would go on for hours, so that no machine is too fast for the signal.
    process = subprocess.Popen(
        [*command, "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    checkpoints = tmp_path / "run" / "checkpoints"
    while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode != 0
    before = check(read_events(tmp_path / "run" / "log"))
    assert before.breaches == []
    assert before.num_committed > 0
    with (tmp_path / "run" / "log" / "events.jsonl").open("ab") as file:
        file.write(b'{"crc":1,"event":{"kind":"torn')  # what a crash in mid-write leaves
    steps = str(max(int(path.name[5:]) for path in checkpoints.glob("step-*")) + 30)
    done = subprocess.run(
        [*command, steps], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == steps
    after = check(read_events(tmp_path / "run" / "log"))
    assert after.breaches == []
    assert after.num_open == 0
    assert after.num_started > before.num_started


def test_a_torn_tail_is_cut_and_an_altered_line_is_an_error_that_cuts_nothing(tmp_path):
    log = EventLog(tmp_path)
    for n in range(5):
        log.append({"kind": "published", "version": n})
    log.close()
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    log = EventLog(tmp_path)
    log.append({"kind": "published", "version": 9})
    log.close()
    assert [e["version"] for e in read_events(tmp_path)] == [0, 1, 2, 3, 9]
    altered = whole.replace(b'"version":2', b'"version":7')
    path.write_bytes(altered)
    for read in (lambda: list(read_events(tmp_path)), lambda: EventLog(tmp_path)):
        with pytest.raises(LongcatDoraError, match=r"events\.jsonl, line 4: "):
            read()
    assert path.read_bytes() == altered


def test_the_command_line(tmp_path):
    _run(tmp_path, steps=3)
    (tmp_path / "own_trainer.py").write_text(
        textwrap.dedent("""
        from longcat_dora.testing import TabularTrainer
        def make():
            return TabularTrainer(learning_rate=0.3)
        def other():
            return TabularTrainer(learning_rate=0.31)
    """)
    )
    command = [sys.executable, "-m", "longcat_dora", "check"]
    done = subprocess.run([*command, str(tmp_path / "log")], capture_output=True, text=True)
    assert done.returncode == 0
    assert "C1 C2 C3 hold" in done.stdout
    command[-1] = "timeline"
    out = tmp_path / "trace.json"
    done = subprocess.run([*command, str(tmp_path), str(out)], capture_output=True, text=True)
    assert done.returncode == 0
    slices = [e for e in json.loads(out.read_text())["traceEvents"] if e["ph"] == "X"]
    assert len([e for e in slices if e["name"].startswith("step ")]) == 3
    report = check(read_events(tmp_path / "log"))
    assert len([e for e in slices if e["name"].startswith("v")]) == report.num_started
    command[-1] = "replay"
    for name, code in (("own_trainer:make", 0), ("own_trainer:other", 1), ("own_trainer", 2)):
        done = subprocess.run(
            [*command, str(tmp_path), "--trainer", name],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    command[-1] = "check"
    done = subprocess.run([*command, str(tmp_path / "nothing")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_import_is_light():
    code = (
        "import sys, longcat_dora; "
        "print([m for m in ('torch', 'ray', 'vllm', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_controller_that_was_lost_is_joined_without_a_word():
    """Else "handle is closed" would hide what ended the run."""
    ours, theirs = multiprocessing.Pipe()
    closed = []
    handle = SimpleNamespace(connection=ours, close=lambda: closed.append(True))
    ours.close()
    theirs.close()
    await LocalRuntime.join(SimpleNamespace(), handle)
    assert closed
