"""Nothing vanishes.

Every rollout has one end with its cause, and a run that cannot go on says why.
"""

import asyncio
import collections
import fractions
import sys
from dataclasses import replace

import pytest
from longcat_dora import (
    Invalid,
    LocalRuntime,
    LongcatDoraError,
    Mask,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
    read_trajectories,
)
from longcat_dora._runtime.trainer_thread import TrainerThread
from longcat_dora.testing import TabularEngine, TabularTrainer, guess

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


def _exits():
    sys.exit(3)


def _leaks():
    raise asyncio.CancelledError  # of something that it ran itself


def _closes():
    raise GeneratorExit  # of a generator of its own


async def _times_out_itself():
    await asyncio.wait_for(asyncio.sleep(60), 0.01)


WRONG = [
    (None, "got None"), ("oops", "got 'oops'"), ("1.0", "got '1.0'"),
    ((1.0, {}, 3), "(1.0, {}, 3)"), ((1.0, [3]), "(1.0, [3])"),
    ((1.0, {"s": {1, 2}}), "set is not JSON serializable"),
    (float("nan"), "a reward must be finite, got nan"),
    (float("inf"), "a reward must be finite, got inf"), (-(10**400), "too large"),
    ([1.0], "must be a number"), (_leaks, "CancelledError"), (_exits, "SystemExit: 3"),
    (_times_out_itself, "TimeoutError"), (_closes, "GeneratorExit"),
]  # fmt: skip
"""What a world returns, or calls, and what is said of it."""


async def _goes_wrong(question, policy):
    reward = await guess(question % 8, policy)
    if question % 20 >= len(WRONG):
        return reward
    outcome, _ = WRONG[question % 20]
    if callable(outcome):
        outcome = outcome()
    return await outcome if asyncio.iscoroutine(outcome) else outcome


def test_whatever_goes_wrong_in_a_world_or_after_it_is_a_failure_that_says_so(tmp_path):
    runtime = _run(tmp_path, _goes_wrong, max_failures_in_a_row=10**6)
    assert runtime.version == 4
    assert runtime.report.num_open == 0
    events = list(read_events(tmp_path / "log"))
    task_of = {e["group"]: int(e["task"][1:]) for e in events if e["kind"] == "admitted"}
    started = {e["trajectory"]: e for e in events if e["kind"] == "started"}
    seen = collections.Counter()
    for event in events:
        if event["kind"] == "ended" and event["reason"] == "failed":
            kind = task_of[started[event["trajectory"]]["group"]] % 20
            assert WRONG[kind][1] in event["detail"]
            seen[kind] += 1
    assert set(seen) == set(range(len(WRONG)))
    assert any(e["attempt"] > 0 for e in started.values())  # it was tried again


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


class _Silent(Invalid):
    def __init__(self):  # it makes no reason
        pass


class _Unspeakable(Mask):
    def __str__(self):
        raise ZeroDivisionError


async def _says_it_oddly(question, policy):
    reward = await guess(question % 8, policy)
    match question % 8:
        case 1:
            return Invalid(None)
        case 2:
            raise Invalid(RuntimeError("the judge is out"))
        case 3:
            raise _Silent
        case 4:
            raise _Unspeakable
        case _:
            return reward


def test_a_world_that_broke_itself_may_say_so_in_any_way(tmp_path):
    runtime = _run(tmp_path, _says_it_oddly, max_failures_in_a_row=10**6, stall_deadline_s=20)
    assert (runtime.version, runtime.report.num_open) == (4, 0)
    assert set(_details(tmp_path, "invalid")) == {"None", "the judge is out", ""}
    assert set(_details(tmp_path, "masked")) == {
        "_Unspeakable, which cannot be shown: ZeroDivisionError"
    }


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


@pytest.mark.parametrize(("metrics", "told"), [
    ([1], "must return a mapping of metrics, at step 7 it returned .1."),
    ({"loss": object()}, "must return metrics that are numbers, at step 7"),
])  # fmt: skip
async def test_metrics_that_are_none_are_named(metrics, told):
    trainer = TabularTrainer()
    trainer.train = lambda batch: metrics
    thread = TrainerThread(trainer)
    with pytest.raises(LongcatDoraError, match=told):
        await thread.train([], step=7)
    trainer.train = lambda batch: {"loss": fractions.Fraction(1, 2), "name": "x"}
    assert await thread.train([], step=8) == {"loss": 0.5, "name": "x"}
    thread.close()


class ReturnsNone(TabularTrainer):
    num_steps = 0

    def train(self, batch):
        self.num_steps += 1
        return super().train(batch) if self.num_steps < 3 else None


@pytest.mark.parametrize(("trainer", "error", "told"), [
    (ReturnsNone(), LongcatDoraError, r"trainer\.train must return a mapping.*step 3.*None"),
    (BadTrainer("train", ZeroDivisionError("by zero")), ZeroDivisionError, "by zero"),
    (BadTrainer("train", StopIteration()), RuntimeError, "StopIteration: what it iterates over"),
    (BadTrainer("weights", ["text"]), LongcatDoraError, r"trainer\.weights must return bytes.*step 3"),
])  # fmt: skip
def test_a_trainer_that_raises_or_returns_nonsense_ends_the_run_before_anything_is_committed(
    tmp_path, trainer, error, told
):
    with pytest.raises(error, match=told) as caught:
        _run(tmp_path, trainer=trainer)
    if error is not LongcatDoraError:
        assert caught.value.__notes__ == ["(raised by trainer.train, step 3)"]
    report = check(tmp_path / "log")
    assert report.breaches == []
    assert len([e for e in read_events(tmp_path / "log") if e["kind"] == "committed"]) == 2


async def _constant(question, policy):
    await guess(question % 8, policy)
    return 0.5


def test_a_run_in_which_nothing_is_to_be_learned_ends_and_says_so(tmp_path, caplog):
    with pytest.raises(
        LongcatDoraError, match=r"no group of the last \d+ had anything to learn from"
    ):
        _run(tmp_path / "a", _constant, max_groups_without_signal=40, tasks=_tasks(10**9))
    assert _run(tmp_path / "b", _constant, tasks=_tasks(5)).version == 0
    assert "the last 5 groups had nothing to learn from" in caplog.text


def test_equal_rewards_are_trained_on_where_they_are_not_the_signal(tmp_path):
    for size, groups in ((1, 8), (2, 4)):
        config = SchedulerConfig(
            groups_per_batch=groups, group_size=size, max_running=8, keep_equal_rewards=True
        )
        run = _run(tmp_path / str(size), _constant, scheduler=config, max_groups_without_signal=1)
        assert run.version == 4
        assert run.report.num_committed == 32
        assert "no_signal" not in run.report.reasons
    with pytest.raises(ValueError, match="keep_equal_rewards must be true or false, got 1"):
        SchedulerConfig(keep_equal_rewards=1)


class Nonsense(TabularEngine):
    """Returns what no engine should, now and then, each kind in turn."""

    async def generate(self, identifier, token_ids, *, max_tokens, temperature):
        sample = await super().generate(
            identifier, token_ids, max_tokens=max_tokens, temperature=temperature
        )
        if identifier % 6:
            return sample
        return [
            replace(sample, log_probs=[]), replace(sample, log_probs=[float("nan")]),
            replace(sample, log_probs=[1.5]), replace(sample, token_ids=[-1]),
            replace(sample, token_ids=[2**31]), replace(sample, token_ids=["a"]), None,
        ][identifier // 6 % 7]  # fmt: skip


async def _swallows(question, policy):
    try:
        return await guess(question % 8, policy)
    except Exception:
        return 0.5


def test_what_cannot_be_trained_on_is_refused_where_it_is_recorded(tmp_path):
    _run(tmp_path, _swallows, engine=Nonsense, steps=6)  # the world hides it
    details = _details(tmp_path, "failed")
    assert all("the engine must return ids and a log-prob" in detail for detail in details)
    told = "1 ids and 0 log-probs", "not finite", "a negative id", "maximum", "str", "NoneType"
    for text in told:
        assert any(text in detail for detail in details), text
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
