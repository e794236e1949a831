"""A controller obeys orders in the order they come, whatever they interrupt."""

import asyncio
import json

from longcat_dora import RolloutController, Worker
from longcat_dora._rollout.messages import (
    AbortRollout,
    Loaded,
    Loading,
    LoadWeights,
    MoveRollout,
    RetireVersion,
    StartRollout,
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
        Worker(engine=engine, rollout=_two_turns), deadline_s=5, deliver=lambda trajectory, _: done.put_nowait(trajectory),
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
    await controller.close()
