"""Who waits for what: every answer that `why` can give, from a manager in that state, or a run."""

import re
import time

import pytest
from longcat_dora import (
    Finished,
    LocalRuntime,
    Payload,
    RolloutManager,
    RunConfig,
    SchedulerConfig,
    Task,
    why,
)
from longcat_dora._rollout.messages import StartRollout
from longcat_dora.testing import TabularTrainer, tabular_worker

CONFIG = SchedulerConfig(groups_per_batch=1, group_size=2, soft_staleness=1, hard_staleness=1)


class _Handle:
    def __init__(self, *, is_ready=True):
        self.running, self.is_ready, self.orders = set(), is_ready, []

    def post(self, order):
        self.orders.append(order)


@pytest.fixture
def manager(tmp_path):
    tasks = (Task(f"n{n}", n) for n in range(100))
    manager = RolloutManager(tmp_path / "log", CONFIG, tasks=tasks)
    yield manager
    manager.close()


def _end(manager, handle, name, version, reward):
    finished = Finished(name, version, [version], "", reward, 2, 1, 0.1)
    manager.finished(handle, finished, Payload("payloads-000.bin", 0, 1, 0))


def _start(manager, *, is_ready=True):
    handle = _Handle(is_ready=is_ready)
    manager.controllers = [handle]
    manager.feed()
    return handle


def test_no_controller_is_there_yet(manager):
    _start(manager, is_ready=False)
    assert manager.explain() == "no controller is ready yet"


def test_rollouts_are_waited_for_and_the_oldest_is_named(manager):
    handle = _start(manager)
    oldest = min(handle.running)
    manager.clock.started_at[oldest] = time.monotonic() - 40
    num = len(handle.running)
    assert re.fullmatch(
        rf"the trainer waits for {num} rollouts, the oldest is {oldest} \(controller 0, 4\d s\)",
        manager.explain(),
    )


def test_one_that_keeps_the_hard_bound_is_named(manager, monkeypatch):
    handle = _start(manager)
    monkeypatch.setattr(manager.queue, "read", lambda names, **_: list(names))
    starts = {o.trajectory: o.group for o in handle.orders if isinstance(o, StartRollout)}
    late = next(iter(starts))  # of the first group; its other member ends
    for _ in range(2):
        manager.feed()
        starts |= {o.trajectory: o.group for o in handle.orders if isinstance(o, StartRollout)}
        version = manager.scheduler.version
        group = next(
            g for g in starts.values()
            if g != starts[late] and all(n in handle.running for n, o in starts.items() if o == g)
        )  # fmt: skip
        for reward, name in enumerate([n for n, o in starts.items() if o == group]):
            at = next(o.version for o in handle.orders if o.trajectory == name)
            _end(manager, handle, name, at, float(reward))
        manager.filter()
        if manager.lease() is None:
            break
        manager.commit()
        assert manager.scheduler.version == version + 1
    assert late in manager.scheduler.blocked_by()
    manager.clock.started_at[late] = time.monotonic() - 93
    line = manager.explain()
    assert line.startswith("the trainer waits for ")
    assert re.search(rf"{late} \(controller 0, 9\d s\)", line)
    assert line.endswith("to keep the hard bound")


def test_nothing_is_running_before_a_task_has_come(manager):
    manager.controllers = [_Handle()]
    assert manager.explain() == "nothing is running"


def test_a_run_that_trains_says_so_and_one_that_is_over_too(tmp_path):
    seen = []

    class Slow(TabularTrainer):
        def train(self, batch):
            until = time.monotonic() + 60
            while not seen and time.monotonic() < until:  # it is written twice a second
                seen.extend(line for line in [why(tmp_path)] if ": training; " in line)
                time.sleep(0.01)
            return super().train(batch)

    tasks = (Task(f"n{n}", n % 8) for n in range(400))
    config = RunConfig(folder=tmp_path, max_steps=3)
    LocalRuntime(config, factory=tabular_worker, trainer=Slow(), tasks=tasks).run()
    assert "rollouts run meanwhile, for" in seen[0]
    assert re.fullmatch(r"ended \d+ s ago at step 3", why(tmp_path))
