"""The Ray runtime on one machine with several raylets, one of which is killed."""

import array
import asyncio
import functools
import json
import os
import signal
import time

import pytest

ray = pytest.importorskip("ray")

from longcat_dora import (  # noqa: E402
    LocalRuntime,
    LongcatDoraError,
    ReplicatedEngine,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
    read_trajectories,
    replay,
)
from longcat_dora.ray import Buffer, RayRuntime  # noqa: E402
from longcat_dora.ray_replicas import RayReplica  # noqa: E402
from longcat_dora.ray_worlds import RayWorlds, WorldLostError  # noqa: E402
from longcat_dora.testing import (  # noqa: E402
    NUM_TOKENS,
    TabularEngine,
    TabularReplica,
    TabularTrainer,
    guess,
    tabular_worker,
)
from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """A head without room for controllers, and three nodes that have some."""
    quiet = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    # A node that is gone refuses at once: ask it often. One that is only slow has ten seconds.
    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500,
            "health_check_failure_threshold": 3, "health_check_timeout_ms": 10_000}  # fmt: skip
    head = {"num_cpus": 0, "_system_config": soon, **quiet}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [
        cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20, wait=False) for _ in range(3)
    ]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def _runtime(folder, **options):
    config = RunConfig(
        folder=folder, max_steps=options.pop("steps", 15), num_controllers=options.pop("controllers", 3),
        scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, hard_staleness=2, max_running=24,
                                  max_attempts=10, at_bound=options.pop("at_bound", "wait")),
    )  # fmt: skip
    return RayRuntime(
        config, factory=options.pop("factory", functools.partial(tabular_worker, 0.02)),
        trainer=options.pop("trainer", None) or TabularTrainer(learning_rate=0.1),
        tasks=(Task(f"n{n}", n % NUM_TOKENS) for n in range(4000)), **options,
    )  # fmt: skip


def test_a_node_is_killed_and_the_run_goes_on(tmp_path, cluster):
    cluster, nodes = cluster
    killed = []

    def on_step(progress):
        if progress.step != 5:
            return
        # Under load not all are placed by then: the one that samples the most is there.
        place = max(runtime.handles, key=lambda handle: len(handle.running)).node
        killed.extend(node for node in nodes if node.node_id == place)
        cluster.remove_node(killed[0], allow_graceful=False)

    runtime = _runtime(tmp_path, on_step=on_step, steps=25)
    assert runtime.run() == 25
    report = check(read_events(tmp_path / "log"))
    assert report.breaches == []
    assert report.num_open == 0
    assert max(report.staleness) <= 2
    assert runtime.num_restarts >= 1
    assert report.reasons["controller_lost"] >= 1
    assert len(killed) == 1
    assert all(
        step.is_exact for step in replay(tmp_path / "log", TabularTrainer(learning_rate=0.1))
    )


def replicas_in_actors(folder, num):
    replicas = [
        RayReplica(functools.partial(PidReplica, folder, n), num_cpus=0) for n in range(num)
    ]
    return Worker(engine=ReplicatedEngine(replicas, retry_s=0.1), rollout=guess)


class PidReplica(TabularReplica):
    """Says where it runs."""

    def __init__(self, folder, place):
        super().__init__(latency_s=0.01)
        (folder / f"{os.getpid()}.{place}.pid").touch()


def _files(folder, pattern, number):
    """Wait until there are so many, for a minute at most."""
    until = time.monotonic() + 60
    while len(found := list(folder.glob(pattern))) < number and time.monotonic() < until:
        time.sleep(0.05)
    return found


def test_engine_replicas_are_actors_and_one_is_killed(tmp_path, cluster):
    pids, killed = tmp_path / "pids", []
    pids.mkdir()

    def on_step(progress):
        if progress.step == 8:  # others may have answered all until then
            found = _files(pids, "*.1.pid", 1)
            os.kill(int(found[0].name.split(".")[0]), signal.SIGKILL)
            killed.extend(found)
        if progress.step == 25:  # the controller, elsewhere, starts it anew
            _files(pids, "*.1.pid", 2)

    runtime = _runtime(
        tmp_path / "run", steps=25, on_step=on_step, controllers=1,
        factory=functools.partial(replicas_in_actors, pids, 3),
    )  # fmt: skip
    assert runtime.run() == 25
    report = check(read_events(tmp_path / "run" / "log"))
    assert report.breaches == []
    assert report.reasons.get("failed", 0) == 0  # what the lost one was asked was asked elsewhere
    assert runtime.num_restarts == 0
    assert len(killed) == 1
    assert len(list(pids.glob("*.1.pid"))) == 2  # it was started anew


class Questions:
    """A world with a state: it asks, and judges the answer to what it asked."""

    def __init__(self, folder):
        self.secret = None
        self.mark = folder / f"{os.getpid()}.{ray.get_runtime_context().get_node_id()}"
        self.mark.touch()

    async def ask(self, secret):
        self.secret = secret
        await asyncio.sleep(0.02)
        return [secret]

    def judge(self, answer):  # plain
        if self.secret == 7:
            raise ValueError("the world broke")
        return float(answer == (3 * self.secret + 1) % NUM_TOKENS)


def worker_with_worlds(folder):
    worlds = RayWorlds(functools.partial(Questions, folder), 2)

    async def rollout(secret, policy):
        async with worlds.lease() as world:
            (answer,) = await policy.generate(await world.ask(secret))
            return await world.judge(answer)

    return Worker(engine=TabularEngine(), rollout=rollout)


def test_worlds_are_actors_and_some_are_killed(tmp_path, cluster):
    places, killed = tmp_path / "places", []
    places.mkdir()

    def on_step(progress):
        if progress.step in (4, 8):
            mark = next(mark for mark in places.iterdir() if mark not in killed)
            os.kill(int(mark.name.split(".")[0]), signal.SIGKILL)
            killed.append(mark)

    runtime = _runtime(
        tmp_path / "run", steps=12, on_step=on_step, controllers=2,
        factory=functools.partial(worker_with_worlds, places),
    )  # fmt: skip
    assert runtime.run() == 12
    events = list(read_events(tmp_path / "run" / "log"))
    assert check(events).breaches == []
    assert runtime.num_restarts == 0
    details = [e["detail"] for e in events if e["kind"] == "ended"]
    assert any("WorldLostError: the world is gone" in detail for detail in details)
    assert any("ValueError: the world broke" in detail for detail in details)
    found = list(places.iterdir())
    assert len(killed) == 2
    assert 4 <= len(found) <= 4 + len(killed)  # one that raised is used on
    for trajectory in read_trajectories(tmp_path / "run" / "log"):
        question, answer = trajectory.segments[0].token_ids
        assert trajectory.reward == float(answer == (3 * question + 1) % NUM_TOKENS)


class Endless:
    def pid(self):
        return os.getpid()

    async def wait(self):
        await asyncio.Event().wait()


def test_a_world_is_leased_again_unless_it_was_left_in_a_call(cluster):
    async def pids(worlds, num, *, interrupt=False):
        found = []
        for _ in range(num):
            async with worlds.lease() as world:
                found.append(await world.pid())
                if interrupt:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(world.wait(), 0.1)
        return len(set(found))

    async def main():
        return await asyncio.gather(
            pids(RayWorlds(Endless, 1), 3),
            pids(RayWorlds(Endless, 1, fresh=True), 2),
            pids(RayWorlds(Endless, 1), 2, interrupt=True),
        )

    assert asyncio.run(main()) == [1, 2, 2]


def test_a_world_that_cannot_be_built_says_why(cluster):
    async def lease():
        async with RayWorlds(functools.partial(int, "no number"), 1).lease():
            pass

    with pytest.raises(WorldLostError, match="invalid literal"):
        asyncio.run(lease())

    async def lease_what_no_node_has():
        async with RayWorlds(int, 1, num_cpus=0, num_gpus=1, start_s=0.5).lease():
            pass

    with pytest.raises(WorldLostError, match=r"within start_s=0\.5 s.*num_gpus=1 free"):
        asyncio.run(lease_what_no_node_has())
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        RayWorlds(int, 0)


def test_a_worker_that_cannot_be_built_is_one_clear_error(tmp_path, cluster):
    with pytest.raises(LongcatDoraError, match="unexpected keyword argument 'model'"):
        _runtime(tmp_path, factory=functools.partial(tabular_worker, model="absent")).run()


def test_a_ray_run_continues_a_run_of_processes(tmp_path, cluster):
    config = RunConfig(folder=tmp_path, max_steps=4)
    tasks = (Task(f"n{n}", n % NUM_TOKENS) for n in range(4000))
    trainer = TabularTrainer(learning_rate=0.1)
    assert LocalRuntime(config, factory=tabular_worker, trainer=trainer, tasks=tasks).run() == 4
    assert _runtime(tmp_path, steps=8).run() == 8
    assert check(read_events(tmp_path / "log")).is_clean


class ArrayTrainer(TabularTrainer):
    """Gives its table row by row, as arrays."""

    def weights(self):
        return {f"row {n}": array.array("d", row) for n, row in enumerate(self.table)}

    def save(self, folder):
        (folder / "table.json").write_text(json.dumps(self.table))


class ArrayEngine(TabularEngine):
    """Takes arrays, which nobody can write to."""

    def load_weights(self, version, weights):
        assert all(row.readonly and row.format == "d" for row in weights.values())
        rows = [weights[f"row {n}"].tolist() for n in range(NUM_TOKENS)]
        super().load_weights(version, json.dumps(rows).encode())


def array_worker():
    return Worker(engine=ArrayEngine(), rollout=guess)


def test_weights_go_to_the_nodes_as_arrays(tmp_path, cluster):
    trainer = ArrayTrainer(learning_rate=0.1)
    runtime = _runtime(tmp_path, steps=8, factory=array_worker, controllers=2, trainer=trainer)
    assert runtime.run() == 8  # the engines look at what they get, on whatever node they are
    assert check(tmp_path / "log").is_clean
    assert all(step.is_exact for step in replay(tmp_path / "log", ArrayTrainer(learning_rate=0.1)))


def test_what_is_in_the_object_store_is_mapped_not_copied(cluster):
    numpy = pytest.importorskip("numpy")
    data = bytes(range(256)) * 8192
    reference = ray.put(Buffer(data))
    views = [ray.get(reference).view for _ in range(2)]
    assert all(bytes(view) == data and view.readonly for view in views)
    places = {numpy.frombuffer(view, dtype=numpy.uint8).ctypes.data for view in views}
    assert len(places) == 1


def test_no_cluster_is_one_clear_error(tmp_path):
    if ray.is_initialized():
        pytest.skip("a cluster of another test is running")
    with pytest.raises(LongcatDoraError, match="must be reachable"):
        _runtime(tmp_path, address="127.0.0.1:1").run()


def test_a_ray_that_does_not_come_up_is_one_clear_error(tmp_path, monkeypatch):
    def late(**_):
        raise Exception("The current node timed out during startup.")  # as Ray raises it

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(LongcatDoraError, match=r"Ray must start here: The current node timed out"):
        _runtime(tmp_path).run()
