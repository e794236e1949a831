"""What happens at the hard bound, in whole runs.

Every token is of the version that its record names.
"""

import asyncio
import copy
import itertools
import math

import pytest
from longcat_dora import (
    LocalRuntime,
    Mask,
    RunConfig,
    SchedulerConfig,
    Segment,
    Session,
    Task,
    Trajectory,
    Worker,
    check,
    read_events,
    read_trajectories,
    replay,
)
from longcat_dora.testing import NUM_TOKENS, TabularEngine, TabularTrainer


class RememberingTrainer(TabularTrainer):
    """Keeps the table of every version, and asserts that what it may learn from is not too old."""

    def __init__(self, hard=None):
        super().__init__(learning_rate=0.3)
        self.tables, self.hard, self.num_masked, self.num_moved = [], hard, 0, 0

    def train(self, batch):
        now = len(self.tables) - 1
        for trajectory in batch:
            self.num_moved += len(trajectory.versions) > 1
            for token, version in _versions(trajectory):
                segment = trajectory.segments[0]
                if segment.loss_mask[token]:
                    assert self.hard is None or now - version <= self.hard
                elif token % 2:
                    self.num_masked += 1
        return super().train(batch)

    def weights(self):
        if not self.tables or self.tables[-1] != self.table:
            self.tables.append(copy.deepcopy(self.table))
        return super().weights()


def _versions(trajectory):
    """Each place in the first segment with its version."""
    (segment,) = trajectory.segments
    version, moves = trajectory.version, dict(segment.moves)
    for place in range(len(segment.token_ids)):
        version = moves.get(place, version)
        yield place, version


async def _slow(question, policy):
    reward, first = 0.0, policy.version
    for turn in range(6):
        (answer,) = await policy.generate([(abs(question) + turn) % NUM_TOKENS])
        reward += answer == abs(question) % NUM_TOKENS
        await asyncio.sleep(0.002)
        for _ in range(100 if question < 0 else 0):  # until it is moved, if it will be
            if policy.version > first + turn // 2:
                break
            await asyncio.sleep(0.01)
    return reward


def slow_worker():
    return Worker(engine=TabularEngine(), rollout=_slow)


@pytest.fixture
def importable(request, monkeypatch):
    """Let spawned processes import this file, whose name is relative to the root of the tests."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("at_bound", ["continue", "mask"])
def test_a_straggler_goes_on_under_newer_weights_and_each_token_tells_which(tmp_path, at_bound):
    trainer = RememberingTrainer(hard=1 if at_bound == "mask" else None)
    tasks = itertools.chain(
        *(
            [Task(f"slow{n}", -1 - n), *(Task(f"n{n}{i}", i % 8) for i in range(12))]
            for n in range(5)
        )
    )
    config = RunConfig(
        folder=tmp_path, max_steps=60, num_controllers=2,
        scheduler=SchedulerConfig(
            groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=1, at_bound=at_bound,
            max_running=24,
        ),
    )  # fmt: skip
    LocalRuntime(config, factory=slow_worker, trainer=trainer, tasks=tasks).run()
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.num_open == 0
    assert max(report.staleness) <= 1
    assert report.num_moved > 0
    assert trainer.num_moved > 0
    assert (trainer.num_masked > 0) == (at_bound == "mask")
    moved = 0
    for trajectory in read_trajectories(tmp_path / "log"):
        (segment,) = trajectory.segments
        moved += bool(segment.moves)
        assert len(segment.token_ids) == 12
        for place, version in _versions(trajectory):
            if segment.loss_mask[place]:
                row = trainer.tables[version][segment.token_ids[place - 1]]
                expected = row[segment.token_ids[place]] - math.log(sum(map(math.exp, row)))
                assert segment.log_probs[place] == pytest.approx(expected, abs=1e-5)
    assert moved > 0
    again = RememberingTrainer()
    assert all(step.is_exact for step in replay(tmp_path / "log", again))
    assert again.table == trainer.table


async def _incomplete(question, policy):
    (answer,) = await policy.generate([question])
    if question == 3:
        raise Mask("the grader failed")
    return float(answer % 2)


def incomplete_worker():
    return Worker(engine=TabularEngine(), rollout=_incomplete)


def _questions(domain, first):
    return (Task(f"{domain}{n}", 2 * (n % 4) + first, domain) for n in range(100))


@pytest.mark.usefixtures("importable")
def test_an_incomplete_signal_is_neither_trained_on_nor_tried_again(tmp_path):
    config = RunConfig(
        folder=tmp_path, max_steps=8,
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, quotas={"even": 1, "odd": 3}),
    )  # fmt: skip
    tasks = {"even": _questions("even", 0), "odd": _questions("odd", 1)}
    domains = []
    LocalRuntime(
        config, factory=incomplete_worker, trainer=TabularTrainer(), tasks=tasks,
        on_step=lambda progress: domains.append(progress.metrics["domains"]),
    ).run()  # fmt: skip
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    masked = [e for e in read_events(tmp_path / "log") if e.get("reason") == "masked"]
    assert masked
    assert {e["detail"] for e in masked} == {"the grader failed"}
    total = {name: sum(d.get(name, 0) for d in domains) for name in ("even", "odd")}
    assert total["odd"] > 2 * total["even"] > 0


def _trajectory(*segments):
    return Trajectory("t0", "g0", "n", "", 3, list(segments), 0.5, {"key": [1, "ä"]}, 0.25)


def test_trajectories_survive_bytes_and_are_masked_by_version():
    first = Segment(
        [5, 6, 7, 8], [False, True, True, True], [0.0, -0.5, -0.25, -1.0], [(2, 4), (3, 6)]
    )
    second = Segment([9, 1], [False, True], [0.0, -2.0], [(0, 5)])
    third = Segment([9, 2], [False, True], [0.0, -2.0])
    trajectory = _trajectory(first, second, third)
    assert Trajectory.from_bytes(trajectory.to_bytes()) == trajectory
    assert trajectory.versions == [3, 4, 5, 6]

    def masks(version):
        return [segment.loss_mask for segment in trajectory.masked_before(version).segments]

    no, yes = False, True
    assert masks(3) == [[no, yes, yes, yes], [no, yes], [no, yes]]
    assert masks(4) == [[no, no, yes, yes], [no, yes], [no, no]]
    assert masks(6) == [[no, no, no, yes], [no, no], [no, no]]
    assert masks(7) == [[no] * 4, [no] * 2, [no] * 2]


class _Renderer:
    """Messages as single tokens: what matters here is which conversation is continued."""

    def start(self, messages, tools):
        return [len(str(m["content"])) % NUM_TOKENS for m in messages]

    extend = None

    def parse(self, token_ids, tools):
        return {"role": "assistant", "content": str(token_ids)}


_Renderer.extend = lambda self, messages: self.start(messages, [])


async def test_messages_continue_the_conversation_they_begin_with_or_begin_another():
    engine = TabularEngine()
    engine.tables[0] = [[0.0] * NUM_TOKENS for _ in range(NUM_TOKENS)]
    session = Session(Worker(engine=engine, rollout=_slow, renderer=_Renderer()), 0, seed=1)
    main = [{"role": "user", "content": "hello"}]
    main += [await session.chat(main, tools=[]), {"role": "user", "content": "go on"}]
    main += [await session.chat(main, tools=[])]
    other = [{"role": "user", "content": "another matter"}]
    other += [await session.chat(other, tools=[])]
    # Clients add fields of their own, and may come back to what they left.
    again = [{**m, "name": "x"} for m in main] + [{"role": "user", "content": "and now"}]
    await session.chat(again)
    edited = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "I never said so"},
    ]
    await session.chat([*edited, {"role": "user", "content": "well?"}], tools=[])
    assert [sum(s.loss_mask) for s in session.segments] == [3, 1, 1]
    assert len(engine._open) == 1  # one slot at a time
    await session.close()
    assert not engine._open
