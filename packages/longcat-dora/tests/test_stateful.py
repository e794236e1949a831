"""Hypothesis looks for the shortest schedule that breaks the contract.

Of the scheduler, and of a manager that crashes.
"""

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from longcat_dora import (
    EndReason,
    Finished,
    PayloadFile,
    RolloutManager,
    Scheduler,
    SchedulerConfig,
    Segment,
    Task,
    Trajectory,
    check,
    read_events,
)
from longcat_dora._rollout.messages import StartRollout

configs = st.builds(
    lambda hard, soft, at_bound, reuse: SchedulerConfig(
        groups_per_batch=2, group_size=2, max_running=5, max_attempts=2, hard_staleness=hard,
        soft_staleness=min(soft, hard), at_bound=at_bound, reuse_ratio=reuse,
    ),
    st.integers(0, 3), st.integers(0, 3),
    st.sampled_from(["wait", "discard", "continue", "mask"]), st.sampled_from([0.0, 0.5]),
)  # fmt: skip


class SchedulerMachine(RuleBasedStateMachine):
    """Beside the scheduler, what a reader of its documentation would write down."""

    @initialize(config=configs)
    def begin(self, config):
        self.config, self.scheduler = config, Scheduler(config)
        self.running: dict[str, int] = {}
        """Name to version."""
        self.ends: Counter[str] = Counter()
        """How often each was told to have ended."""
        self.num_groups, self.leased = 0, None

    def hear(self):
        for name in self.scheduler.take_discarded():
            self.ends[name] += 1
            self.running.pop(name, None)
        for name, version in self.scheduler.take_moved():
            assert self.config.at_bound in ("continue", "mask")
            self.running[name] = version

    @rule()
    def admit(self):
        if self.scheduler.can_admit():
            self.scheduler.admit(f"g{self.num_groups}", task="t", domain="")
            self.num_groups += 1

    @rule()
    def start(self):
        order = self.scheduler.start()
        if order is not None:
            assert order.version == self.scheduler.version  # always on the newest
            assert order.trajectory not in self.running
            self.running[order.trajectory] = order.version

    @rule()
    def fill(self):
        before = None
        while before != (before := (self.num_groups, len(self.running))):
            self.admit()
            self.start()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.scheduler.finish(name, version=self.running.pop(name))

    @rule(num_left=st.integers(0, 3))
    def finish_newest(self, num_left):
        """All but the oldest few: what takes long is what becomes old."""
        for name in sorted(self.running)[num_left:]:
            self.scheduler.finish(name, version=self.running.pop(name))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), reason=st.sampled_from([EndReason.FAILED, EndReason.MASKED]))
    def fail(self, data, reason):
        name = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[name]
        self.ends[name] += 1
        self.scheduler.fail(name, reason)

    @rule(no_signal=st.booleans())
    def judge(self, no_signal):
        for group in self.scheduler.take_complete():
            if no_signal:
                self.scheduler.evict(group, EndReason.NO_SIGNAL)

    @precondition(lambda self: self.leased is None)
    @rule()
    def lease(self):
        self.leased = self.scheduler.lease()
        self.hear()
        if self.leased is None:
            return
        for name in self.scheduler.batch():
            assert name not in self.running
        if self.config.at_bound in ("wait", "discard"):
            # What stays behind can still be trained on at the next step.
            for version in self.running.values():
                assert version > self.scheduler.version - max(1, self.config.hard_staleness)

    @precondition(lambda self: self.leased is not None)
    @rule()
    def commit(self):
        batch, before = set(self.scheduler.batch()), self.scheduler.version
        assert self.scheduler.commit() == before + 1
        self.ends.update(batch - set(self.scheduler.reusable))
        self.leased = None

    @precondition(lambda self: self.leased is None)
    @rule(num=st.integers(1, 4), num_left=st.integers(0, 3))
    def steps(self, num, num_left):
        for _ in range(num):
            self.fill()
            self.finish_newest(num_left)
            self.lease()
            if self.leased is not None:
                self.commit()

    @invariant()
    def counts(self):
        scheduler = self.scheduler
        assert scheduler.num_running == len(self.running) <= self.config.max_running
        assert scheduler.num_open_groups <= self.config.max_open_groups
        assert max(self.ends.values(), default=0) <= 1
        assert set(scheduler.live_versions) == {*self.running.values(), scheduler.version}

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        if self.leased is not None:
            self.commit()
        self.scheduler.end()
        opened = {"kind": "opened", "hard_staleness": self.config.hard_staleness}
        opened["at_bound"] = self.config.at_bound
        events = [opened, {"kind": "published", "version": 0}, *self.scheduler.take_events()]
        report = check([*events, {"kind": "closed"}])
        assert report.breaches == []
        assert report.num_started == report.num_committed + report.num_ended


@dataclass
class _Handle:
    is_ready: bool = True
    running: set[str] = field(default_factory=set)
    orders: list[tuple] = field(default_factory=list)

    def post(self, order):
        self.orders.append(order)


class ManagerMachine(RuleBasedStateMachine):
    """A manager that is killed between any two events, with half a line at its log's end, and set back to a checkpoint."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.saved, self.batch = 0, None
        self.config = SchedulerConfig(
            groups_per_batch=2, group_size=2, hard_staleness=2, max_running=5
        )
        self.open(0)

    def open(self, version):
        tasks = (Task(f"n{n}", n) for n in range(10_000))
        self.manager = RolloutManager(self.folder, self.config, tasks=tasks, version=version)
        self.file = PayloadFile(self.folder, self.manager.writer())
        self.handle = _Handle()
        self.manager.controllers = [self.handle]
        self.batch = None

    @rule()
    def feed(self):
        self.manager.feed()

    @precondition(lambda self: self.handle.running)
    @rule(data=st.data(), reward=st.sampled_from([0.0, 1.0]))
    def finish(self, data, reward):
        self.end(data.draw(st.sampled_from(sorted(self.handle.running))), reward)

    def end(self, name, reward):
        order = next(
            o for o in self.handle.orders if isinstance(o, StartRollout) and o.trajectory == name
        )
        group, task, domain, version = order.group, order.task, order.domain, order.version
        segment = Segment([3, 4], [False, True], [0.0, -1.0])
        trajectory = Trajectory(name, group, task, domain, version, [segment], reward)
        payload = self.file.append(trajectory.to_parts())
        self.manager.finished(self.handle, Finished.of(trajectory), payload)

    @precondition(lambda self: self.batch is None)
    @rule(num=st.integers(1, 4), num_left=st.integers(0, 3), save=st.booleans())
    def steps(self, num, num_left, save):
        for _ in range(num):
            self.manager.feed()
            for number, name in enumerate(sorted(self.handle.running)[num_left:]):
                self.end(name, number)
            self.lease()
            if self.batch is not None:
                self.commit()
        if save and self.batch is None:
            self.save()

    @precondition(lambda self: self.handle.running)
    @rule(data=st.data())
    def fail(self, data):
        name = data.draw(st.sampled_from(sorted(self.handle.running)))
        self.manager.failed(self.handle, name, "failed", "the world broke")
        self.manager.flush()

    @rule()
    def lose_the_controller(self):
        self.manager.lost(self.handle)

    @precondition(lambda self: self.batch is None)
    @rule()
    def lease(self):
        self.manager.filter()
        self.batch = self.manager.lease()
        version = self.manager.scheduler.version
        for trajectory in self.batch or ():  # whole, as it was written, and not too old
            assert trajectory.segments[0].token_ids == [3, 4]
            assert 0 <= version - trajectory.version <= self.config.hard_staleness

    @precondition(lambda self: self.batch is not None)
    @rule()
    def commit(self):
        self.manager.commit()
        self.batch = None

    @precondition(lambda self: self.batch is None)
    @rule()
    def save(self):
        self.saved = self.manager.scheduler.version

    @rule(torn=st.integers(0, 40), hard=st.integers(1, 3))
    def crash(self, torn, hard):
        """And another bound from now on."""
        self.config = replace(self.config, hard_staleness=hard)
        self.manager.close()
        self.file.close()
        events = self.folder / "events.jsonl"
        whole = events.read_bytes()
        last = len(whole) - len(whole.splitlines(keepends=True)[-1])
        with events.open("r+b") as file:  # of the last line, some bytes are missing
            file.truncate(max(last, len(whole) - torn))
        self.saved = min(self.saved, self.published())
        self.open(self.saved)

    def published(self):
        kinds = ("published", "restored")
        found = [e["version"] for e in read_events(self.folder) if e["kind"] in kinds]
        return found[-1]

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        self.manager.end()
        self.manager.close()
        self.file.close()
        report = check(read_events(self.folder))
        assert report.breaches == []
        assert report.num_open == 0
        assert report.num_started == report.num_committed + report.num_ended
        shutil.rmtree(self.folder)


MORE = 4 if os.environ.get("LONGCAT_LONG") == "1" else 1
"""Schedules in `just long`, for one of the suite."""

TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60 * MORE, stateful_step_count=60, deadline=None)
TestManager = ManagerMachine.TestCase
TestManager.settings = settings(max_examples=80 * MORE, stateful_step_count=40, deadline=None)
