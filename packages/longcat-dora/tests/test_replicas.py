"""Several replicas of one version each, as one engine of several versions."""

import asyncio
import functools
import json
import math
import random
from collections import Counter

import pytest
from longcat_dora import (
    Completion,
    LocalRuntime,
    LongcatDoraError,
    ReplicaLostError,
    ReplicatedEngine,
    RunConfig,
    SchedulerConfig,
    Task,
    check,
    read_events,
    read_trajectories,
)
from longcat_dora.testing import (
    NUM_TOKENS,
    TabularReplica,
    TabularTrainer,
    _probs,
    replicated_worker,
)


class _Replica:
    """Answers with the number of its version; knows when it is misused."""

    def __init__(self, rng, *, breaks=0.0):
        self.rng, self.breaks = rng, breaks
        self.version, self.running, self.is_loading = None, 0, False
        self.seen = []

    async def load_weights(self, version, weights):
        assert self.running == 0, "weights are replaced under a request"
        assert bytes(weights) == b"%d" % version
        self.is_loading = True
        await asyncio.sleep(self.rng.random() * 0.003)
        self.version, self.is_loading = version, False

    async def complete(self, token_ids, *, max_tokens, temperature, seed):
        assert not self.is_loading
        assert self.version is not None
        self.running += 1
        self.seen.append(list(token_ids))
        try:
            await asyncio.sleep(self.rng.random() * 0.003)
            if self.rng.random() < self.breaks:
                raise ReplicaLostError("gone")
            return Completion([self.version] * min(2, max_tokens), [seed or 0.0] * 2)
        finally:
            self.running -= 1


async def _until_held(engine, *versions):
    """Wait until the replicas hold these versions, in any order."""
    async with asyncio.timeout(60):
        while Counter(engine.holding) != Counter(versions):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("num", [1, 2, 5])
@pytest.mark.parametrize("breaks", [0.0, 0.1])
async def test_a_conversation_is_of_one_version_whatever_happens(num, breaks):
    rng = random.Random(num)
    replicas = [_Replica(rng, breaks=breaks) for _ in range(num)]
    engine = ReplicatedEngine(replicas, rebalance_s=0.01, retry_s=0.01)
    newest, done = 0, 0

    async def rollout(version):
        nonlocal done
        c = await engine.open(version, seed=7)
        said = []
        for turn in range(3):
            result = await engine.generate(c, [100 + turn], max_tokens=4, temperature=1.0)
            said += result.token_ids
            await asyncio.sleep(rng.random() * 0.003)
        assert said == [version] * 6
        await engine.close(c)
        done += 1

    engine.load_weights(0, b"0")
    tasks = []
    for newest in range(1, 12):
        tasks += [asyncio.create_task(rollout(newest - 1)) for _ in range(rng.randint(1, 12))]
        await asyncio.sleep(0.005)
        engine.load_weights(newest, b"%d" % newest)
        engine.retire(newest - 1)
    await asyncio.wait_for(asyncio.gather(*tasks), 120)
    assert done == len(tasks)
    assert list(engine._weights) == [newest]  # those of retired versions are let go
    await _until_held(engine, *[newest] * num)
    await engine.stop()


async def test_replicas_go_where_the_conversations_are():
    engine = ReplicatedEngine([_Replica(random.Random(0)) for _ in range(6)], rebalance_s=0)
    engine.load_weights(0, b"0")
    old = [await engine.open(0) for _ in range(8)]
    engine.load_weights(1, b"1")
    # 8 conversations and 1 to come: 5.3 and 0.7
    await _until_held(engine, 0, 0, 0, 0, 0, 1)
    for c in old[:6]:
        await engine.close(c)
    new = [await engine.open(1) for _ in range(4)]
    await _until_held(engine, 0, 0, 1, 1, 1, 1)
    for c in [*old[6:], *new]:
        await engine.close(c)
    await _until_held(engine, *[1] * 6)
    await engine.stop()


async def test_under_cache_pressure_replicas_go_where_the_tokens_are():
    rng = random.Random(0)
    replicas = [_Replica(rng) for _ in range(3)]
    engine = ReplicatedEngine(replicas, cache_tokens=100, rebalance_s=1e9)
    engine.load_weights(0, b"0")
    long = [await engine.open(0) for _ in range(2)]
    for c in long:
        await engine.generate(c, [7] * 60, max_tokens=2, temperature=1.0)
    engine.load_weights(1, b"1")
    short = [await engine.open(1) for _ in range(6)]
    await asyncio.gather(*(engine.generate(c, [7], max_tokens=2, temperature=1.0) for c in short))
    engine._move(engine._hosts[engine.holding.index(0)], 1)  # one for the two long ones
    await _until_held(engine, 0, 1, 1)

    async def speak(c):
        for _ in range(3):
            await engine.generate(c, [7] * 5, max_tokens=2, temperature=1.0)

    await asyncio.gather(*(speak(c) for c in long))
    assert sorted(engine.holding) == [0, 0, 1]  # by conversations it would be [0, 1, 1]
    for c in long + short:
        await engine.close(c)
    assert all(host.tokens == host.load == 0 for host in engine._hosts)


async def test_requests_go_where_there_is_room():
    replicas = [_Replica(random.Random(0)) for _ in range(2)]
    engine = ReplicatedEngine(replicas, cache_tokens=100)
    engine.load_weights(0, b"0")
    await _until_held(engine, 0, 0)
    conversations = [await engine.open(0) for _ in range(3)]
    lengths = [90, 10, 15]  # the third would follow the idlest, and finds room beside the second
    asked = [
        asyncio.create_task(engine.generate(c, [7] * n, max_tokens=2, temperature=1.0))
        for c, n in zip(conversations, lengths, strict=True)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(host.tokens for host in engine._hosts) == [29, 92]
    await asyncio.gather(*asked)


async def test_the_next_turn_goes_where_the_cache_is():
    rng = random.Random(0)
    replicas = [_Replica(rng) for _ in range(3)]
    engine = ReplicatedEngine(replicas)
    engine.load_weights(0, b"0")
    c = await engine.open(0)
    for turn in range(5):
        await engine.generate(c, [turn], max_tokens=2, temperature=1.0)
    (seen,) = [replica.seen for replica in replicas if replica.seen]
    assert len(seen) == 5
    assert seen[2] == [0, 0, 0, 1, 0, 0, 2]  # all that was said before, and what is new
    await engine.stop()


async def test_a_full_conversation_ends_and_seeds_repeat():
    engine = ReplicatedEngine([_Replica(random.Random(0))], max_length=6)
    engine.load_weights(0, b"0")
    luck = []
    for _ in range(2):
        c = await engine.open(0, seed=3)
        first = await engine.generate(c, [1, 2], max_tokens=9, temperature=1.0)
        second = await engine.generate(c, [1], max_tokens=9, temperature=1.0)
        assert (len(first.token_ids), len(second.token_ids)) == (2, 1)
        luck.append((first.log_probs[0], second.log_probs[0]))
        full = await engine.generate(c, [1], max_tokens=9, temperature=1.0)
        assert (full.token_ids, full.finish_reason) == ([], "length")
        await engine.close(c)
    assert luck[0] == luck[1]
    assert luck[0][0] != luck[0][1]
    with pytest.raises(KeyError, match="live are"):
        await engine.open(5)
    await engine.stop()


async def test_weights_that_do_not_fit_are_an_error_not_a_wait():
    class Refuses(_Replica):
        async def load_weights(self, version, weights):
            raise LongcatDoraError("they do not fit")

    engine = ReplicatedEngine([Refuses(random.Random(0))])
    engine.load_weights(0, b"0")
    c = await engine.open(0)
    with pytest.raises(LongcatDoraError, match="do not fit"):
        await engine.generate(c, [1], max_tokens=2, temperature=1.0)
    with pytest.raises(ValueError, match="at least one replica"):
        ReplicatedEngine([])


class _Remembers(TabularTrainer):
    """Keeps the table of each version."""

    def __init__(self):
        super().__init__(learning_rate=0.3)
        self.tables = [json.loads(self.weights())]

    def train(self, batch):
        metrics = super().train(batch)
        self.tables.append(json.loads(self.weights()))
        return metrics


@pytest.mark.parametrize("num", [1, 3])
def test_a_run_on_replicas_keeps_the_contract(tmp_path, num):
    trainer = _Remembers()
    tasks = (Task(f"n{n}", n % NUM_TOKENS) for n in range(4000))
    scheduler = SchedulerConfig(
        groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=3
    )
    config = RunConfig(folder=tmp_path, max_steps=25, scheduler=scheduler)
    factory = functools.partial(replicated_worker, num, 0.02)
    assert LocalRuntime(config, factory=factory, trainer=trainer, tasks=tasks).run() == 25
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    for trajectory in read_trajectories(tmp_path / "log"):
        (segment,) = trajectory.segments
        context, token = segment.token_ids
        probs = _probs(trainer.tables[trajectory.version][context])
        assert segment.log_probs[-1] == pytest.approx(math.log(probs[token]))


async def test_a_replica_that_never_takes_its_weights_is_lost_and_named():
    class Hangs(TabularReplica):
        async def load_weights(self, version, weights):
            await asyncio.Event().wait()

    engine = ReplicatedEngine([Hangs()], load_s=0.05, retry_s=0.01, max_slow_loads=2)
    engine.load_weights(0, b"[]")
    identifier = await engine.open(0)
    with pytest.raises(LongcatDoraError, match=r"replica 0 had not taken the weights of version 0"):
        await asyncio.wait_for(
            engine.generate(identifier, [1], max_tokens=1, temperature=1.0), timeout=60
        )
    await engine.stop()
