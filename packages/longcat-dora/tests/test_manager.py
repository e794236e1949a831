"""The manager's books, with controllers that are lists: what is ordered, kept, tried again and told."""

import pytest
from longcat_dora import (
    EndReason,
    Finished,
    LongcatDoraError,
    Payload,
    PayloadFile,
    RolloutManager,
    SchedulerConfig,
    Segment,
    Task,
    Trajectory,
    check,
    read_events,
)
from longcat_dora._rollout.messages import AbortRollout, MoveRollout, StartRollout

CONFIG = SchedulerConfig(
    groups_per_batch=1, group_size=2, soft_staleness=1, hard_staleness=1, max_running=8
)


class _Handle:
    def __init__(self, *, is_ready=True):
        self.running, self.is_ready, self.orders = set(), is_ready, []

    def post(self, order):
        self.orders.append(order)

    def of(self, kind):
        return [order for order in self.orders if isinstance(order, kind)]


class _Run:
    """A manager in a folder, and what controllers would do for it."""

    def __init__(self, folder, config=CONFIG, *, num=2, tasks=None, **options):
        self.folder = folder
        tasks = tasks if tasks is not None else (Task(f"n{n}", n) for n in range(100))
        self.manager = RolloutManager(folder, config, tasks=tasks, **options)
        self.handles = [_Handle() for _ in range(num)]
        self.manager.controllers = list(self.handles)
        self.file = PayloadFile(folder, self.manager.writer())
        self.manager.feed()

    def holder(self, name):
        return next(handle for handle in self.handles if name in handle.running)

    def starts(self):
        return [order for handle in self.handles for order in handle.of(StartRollout)]

    def finish(self, order, reward, *, sampled=1, truncated=False, splits=0, version=None):
        ends = [(2, "length" if truncated else "stop")]
        segment = Segment([1, 2], [False, bool(sampled)], [0.0, -0.5 * sampled], [], ends)
        at = order.version if version is None else version
        trajectory = Trajectory(order.trajectory, order.group, order.task, order.domain, at,
                                [segment], reward, {}, 0.25)  # fmt: skip
        payload = self.file.append(trajectory.to_parts())
        finished = Finished.of(trajectory, num_splits=splits)
        handle = next(h for h in self.handles if order in h.orders)
        return self.manager.finished(handle, finished, payload)

    def close(self):
        self.file.close()
        self.manager.close()

    def events(self, kind):
        return [e for e in read_events(self.folder) if e["kind"] == kind]


@pytest.fixture
def run(tmp_path):
    run = _Run(tmp_path)
    yield run
    run.close()


def test_rollouts_are_dealt_evenly_to_controllers_that_are_ready(run):
    assert [len(handle.running) for handle in run.handles] == [2, 2]
    assert {order.payload for order in run.starts()} == {0, 1}
    assert len({order.seed for order in run.starts()}) == 4
    run.handles[0].is_ready = False
    for order in list(run.starts()):
        run.finish(order, float(order.trajectory == "t000000"))
    run.manager.filter()
    run.manager.feed()
    assert not run.handles[0].running


def test_a_step_is_a_batch_of_one_group_and_its_tokens_come_from_the_files(run):
    first = [order for order in run.starts() if order.group == "g00000"]
    assert run.manager.lease() is None
    for reward, order in enumerate(first):
        assert run.finish(order, float(reward))
    run.manager.filter()
    batch = run.manager.lease()
    assert [(t.id, t.reward) for t in batch] == [
        (o.trajectory, float(n)) for n, o in enumerate(first)
    ]
    assert len(run.manager.queue) == 2
    assert run.manager.commit() == run.manager.scheduler.version == 1
    assert len(run.manager.queue) == 0
    assert run.manager.take_rewards() == [0.0, 1.0]
    assert run.manager.take_rewards() == []
    assert run.manager.domains(batch) == {"": 2}
    run.manager.flush()
    (event,) = run.events("committed")
    assert event["trajectories"] == [order.trajectory for order in first]


def test_a_group_without_a_signal_is_evicted_and_counted(run):
    by_group = {}
    for order in run.starts():
        by_group.setdefault(order.group, []).append(order)
    for order in by_group["g00000"]:
        run.finish(order, 0.5)
    run.manager.filter()
    assert (run.manager.num_without_signal, run.manager.num_filtered) == (1, 1)
    assert len(run.manager.queue) == 0
    (event,) = run.events("evicted")
    assert (event["group"], event["reason"]) == ("g00000", "no_signal")
    for reward, order in enumerate(by_group["g00001"]):
        run.finish(order, float(reward))
    run.manager.filter()
    assert (run.manager.num_without_signal, run.manager.num_filtered) == (0, 1)
    assert run.manager.take_rewards() == [0.5, 0.5, 0.0, 1.0]


def test_complete_groups_are_shown_before_they_are_judged(tmp_path):
    seen = []
    run = _Run(tmp_path, on_group=seen.append)
    for order in [o for o in run.starts() if o.group == "g00000"]:
        run.finish(order, 0.5)
    run.manager.filter()
    assert [[t.reward for t in group] for group in seen] == [[0.5, 0.5]]
    run.close()


def test_what_is_told_twice_or_has_nothing_sampled_is_not_kept(run):
    first, second, *_ = run.starts()
    assert run.finish(first, 1.0)
    assert not run.finish(first, 1.0)
    assert not run.finish(second, 1.0, sampled=0)
    run.manager.flush()
    (event,) = run.events("ended")
    assert (event["trajectory"], event["reason"]) == (second.trajectory, "nothing_sampled")
    assert len(run.events("produced")) == 1


def test_cut_answers_and_edited_histories_are_counted_until_they_are_asked_for(run):
    first, second, third, _ = run.starts()
    run.finish(first, 1.0, truncated=True, splits=2)
    run.finish(second, 1.0, splits=1)
    run.finish(third, 1.0, truncated=True)
    assert (run.manager.num_truncated, run.manager.num_splits) == (2, 3)
    assert [e.get("truncated", False) for e in run.events("produced")] == [True, False, True]
    run.manager.take_rewards()
    assert (run.manager.num_truncated, run.manager.num_splits) == (0, 0)


def test_what_failed_is_tried_again_and_unknown_names_are_no_matter(run):
    order = run.starts()[0]
    holder = run.holder(order.trajectory)
    run.manager.failed(holder, order.trajectory, "failed", "Traceback")
    run.manager.failed(holder, order.trajectory, "failed", "told twice")
    assert order.trajectory not in holder.running
    run.manager.feed()
    again = run.starts()[-1]
    new = max(run.starts(), key=lambda o: o.trajectory)
    assert (new.group, new.payload) == (order.group, order.payload)
    assert new.seed != order.seed
    assert again.trajectory != order.trajectory
    run.manager.flush()
    (event,) = run.events("ended")
    assert (event["reason"], event["detail"], event["again"]) == ("failed", "Traceback", True)


def test_what_a_lost_controller_sampled_ends_with_its_reason(run, monkeypatch):
    lost = run.handles[0]
    late, other = sorted(lost.running)
    run.manager.clock.started_at[late] -= 100
    assert run.manager.overdue(50) == {0: [late]}
    assert run.manager.overdue(500) == {}
    assert run.manager.age_of_oldest_s() >= 100
    run.manager.lost(lost, overdue=[late])
    assert lost.running == set()
    ends = {e["trajectory"]: (e["reason"], e["detail"]) for e in run.events("ended")}
    assert ends == {
        late: ("deadline", "its controller did not end it"), other: ("controller_lost", ""),
    }  # fmt: skip
    assert run.manager.overdue(50) == {}
    assert run.manager.age_of_oldest_s() < 50


def test_a_run_is_drained_when_no_task_is_left_and_nothing_runs(tmp_path):
    run = _Run(tmp_path, tasks=[Task("a", 1)])
    run.manager.feed()
    assert not run.manager.is_drained
    orders = run.starts()
    assert len(orders) == 2
    for reward, order in enumerate(orders):
        assert not run.manager.is_drained
        run.finish(order, float(reward))
    assert run.manager.is_drained
    run.manager.end()
    assert run.events("closed")
    report = check(tmp_path)
    assert report.is_clean
    assert report.reasons == {"run_ended": 2}
    run.close()


@pytest.mark.parametrize(
    ("at_bound", "kind"), [("discard", AbortRollout), ("continue", MoveRollout)]
)
def test_controllers_are_told_what_happens_at_the_bound(tmp_path, at_bound, kind):
    config = SchedulerConfig(groups_per_batch=1, group_size=2, soft_staleness=1, hard_staleness=1,
                             max_running=8, at_bound=at_bound)  # fmt: skip
    run = _Run(tmp_path, config)
    late = [order for order in run.starts() if order.group == "g00000"]
    for step in range(2):
        group = f"g0000{step + 1}"
        run.manager.feed()
        for reward, order in enumerate([o for o in run.starts() if o.group == group]):
            run.finish(order, float(reward))
        run.manager.filter()
        assert run.manager.lease() is not None
        if step == 0:
            run.manager.commit()
    told = [order for handle in run.handles for order in handle.of(kind)]
    assert {order.trajectory for order in told} == {order.trajectory for order in late}
    running = {name for handle in run.handles for name in handle.running}
    assert {o.trajectory for o in late} & running == (set() if at_bound == "discard" else running)
    if at_bound == "continue":
        assert all(order.version == 1 for order in told)
    run.close()


def test_a_run_goes_on_with_what_is_finished_and_samples_the_rest_anew(tmp_path):
    run = _Run(tmp_path)
    first, second, *rest = sorted(run.starts(), key=lambda order: order.trajectory)
    assert run.finish(first, 1.0, truncated=True)
    run.close()
    again = _Run(tmp_path)
    assert len(again.manager.queue) == 1
    (kept,) = again.manager.queue.look([first.trajectory])
    assert (kept.reward, kept.is_truncated, kept.duration_s) == (1.0, True, 0.25)
    orders = {(o.group, o.seed): o for o in again.starts()}
    for order in (second, *rest):
        found = orders[order.group, order.seed]  # its seat, with its luck
        assert found.trajectory not in {o.trajectory for o in (first, second, *rest)}
        assert found.payload == order.payload
    assert len(orders) == 3
    assert again.file.path.name == "payloads-001.bin"
    again.close()
    events = list(read_events(tmp_path))
    assert [e["kind"] for e in events].count("opened") == 2
    assert check(tmp_path).breaches == []


def test_tasks_that_come_in_another_order_are_told_of_when_a_run_goes_on(tmp_path):
    tasks = [Task(name, n) for n, name in enumerate("abcd")]
    _Run(tmp_path, tasks=tasks).close()
    again = _Run(tmp_path, tasks=[tasks[2], tasks[0], tasks[1], tasks[3]], num=0)
    (notice,) = again.events("noticed")
    assert "after 'a' was admitted, 'c' comes" in notice["text"]
    again.close()


def test_damaged_trajectories_are_sampled_anew_and_groups_without_a_task_end(tmp_path, caplog):
    run = _Run(tmp_path, tasks=[Task("plain", 1), Task("lost", object())])
    orders = run.starts()
    for order in orders:
        if order.task == "plain" or order == next(o for o in orders if o.task == "lost"):
            run.finish(order, float(order.trajectory[-1]))
    run.close()
    path = run.file.path
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    again = _Run(tmp_path, tasks=[])
    assert "1 finished trajectories are damaged and are sampled anew" in caplog.text
    assert "group g00001 ends: its task 'lost' is not in the log" in caplog.text
    damaged = {e["trajectory"] for e in again.events("ended") if e["reason"] == "damaged"}
    assert len(damaged) == 1
    (evicted,) = again.events("evicted")
    assert (evicted["group"], evicted["reason"]) == ("g00001", "damaged")
    again.close()


def test_a_run_that_is_in_use_or_too_old_a_log_is_refused_and_lets_go(tmp_path):
    run = _Run(tmp_path)
    with pytest.raises(LongcatDoraError, match="one folder, one run"):
        _Run(tmp_path)
    run.close()
    with pytest.raises(LongcatDoraError, match="checkpoint is of version 5"):
        _Run(tmp_path, version=5)
    _Run(tmp_path).close()  # the lock was let go


def test_a_reason_that_is_unknown_is_an_error(run):
    order = run.starts()[0]
    with pytest.raises(ValueError, match="whim"):
        run.manager.failed(run.holder(order.trajectory), order.trajectory, "whim", "")
    assert EndReason("failed") == EndReason.FAILED
    assert Payload("a", 0, 1, 2) == Payload("a", 0, 1, 2)
