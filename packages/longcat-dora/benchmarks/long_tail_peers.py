"""Long-tailed rollouts under the schedulers of AReaL and verl themselves, beside ours.

Wall clock, one run.

usage: pip install --no-deps areal verl; pip install ray omegaconf torch uvloop
       python long_tail_peers.py [--steps 60] [--mean 0.1]

Same laws, places, batches and trainer as `long_tail.py`. What is theirs runs unchanged:

- AReaL: `StalenessManager`, `BatchTaskDispatcher` and `AsyncTaskRunner`, with `max_staleness` 2.
  Modules that they import and that have no part in scheduling are stand-ins.
- verl: the processor loop, the pause rule and `reset_staleness` of `FullyAsyncRollouter`, and
  `MessageQueue`, each in a Ray actor, with `staleness_threshold` 2.

A group of two is one rollout to them, as it is in their own recipes, with half as many places for
it (or, with `--singles`, two rollouts that nobody joins: what ours cannot do, since a group is what
advantages are made of). Neither side generates: a rollout is a wait. Staleness is counted from the
version at a trajectory's first token.
"""

import argparse
import asyncio
import importlib.metadata
import importlib.util
import itertools
import logging
import multiprocessing
import os
import sys
import time
import types
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import MagicMock

import long_tail
from longcat_dora import SchedulerConfig, plan

BATCH, PLACES, BOUND = 32, 64, 2


def _result(marks, ages):
    """Trajectories a second from the first step on, mean and greatest staleness, share beyond the bound."""
    num = sum(ages.values())
    return (
        (len(marks) - 1) * BATCH / (marks[-1] - marks[0]),
        sum(age * n for age, n in ages.items()) / num,
        max(ages),
        sum(n for age, n in ages.items() if age > BOUND) / num,
    )


def _apart(function, *arguments):
    """Call a function in a process of its own: stand-ins of one side must not reach another."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# -- AReaL -----------------------------------------------------------------------------------------


def areal_classes():
    """Load AReaL's three modules of scheduling from its wheel, and nothing else of it."""
    root = Path(importlib.util.find_spec("areal").submodule_search_locations[0])
    for name in ("areal", "areal.infra", "areal.api"):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    unused = [
        "areal.api.cli_args", "areal.infra.rpc", "areal.infra.rpc.rtensor", "areal.experimental",
        "areal.experimental.openai", "areal.experimental.openai.types", "areal.utils",
        "areal.infra.utils", "areal.infra.utils.concurrent", "areal.utils.data",
        "areal.utils.perf_tracer", "areal.infra.workflow_context", "aiofiles", "aiofiles.os",
        "torchdata", "torchdata.stateful_dataloader", "requests",
    ]  # fmt: skip
    for name in unused:
        sys.modules[name] = MagicMock()

    @dataclass
    class RolloutStat:  # four counters
        accepted: int = 0
        enqueued: int = 0
        rejected: int = 0
        running: int = 0

    sys.modules["areal.api"].RolloutStat = RolloutStat
    sys.modules["areal.api"].RolloutWorkflow = object
    sys.modules["areal.infra"].workflow_context = MagicMock()
    from areal.infra.staleness_manager import StalenessManager
    from areal.infra.workflow_executor import BatchTaskDispatcher

    return StalenessManager, BatchTaskDispatcher


@dataclass
class _Item:
    task_id: int


def areal(latencies, options):
    staleness_manager, dispatcher = areal_classes()
    trainer = types.SimpleNamespace(version=0)
    trainer.get_version = lambda: trainer.version
    size = options.size
    manager = staleness_manager(trainer, PLACES // size, BATCH // size, BOUND)

    def task(item):
        async def episode():
            version = trainer.version
            await asyncio.sleep(long_tail._slowest(latencies, item.task_id, size))
            manager.on_rollout_accepted()
            return version

        return episode

    runner = dispatcher(PLACES * 16, task, manager)
    log = logging.getLogger("areal")
    log.setLevel(logging.ERROR)
    runner.initialize(log)
    items, marks, ages = (_Item(n) for n in itertools.count()), [], Counter()
    # It submits one batch a second while it waits: in minutes-long rollouts it is soon full, here
    # it begins so.
    for item in itertools.islice(items, manager.get_pending_limit()):
        runner.submit_task_input(item)
    for _ in range(options.steps):
        versions = runner.active_submit_and_wait(items, BATCH // size)
        ages.update(trainer.version - version for version in versions)
        time.sleep(options.mean)
        trainer.version += 1
        marks.append(time.monotonic())
    runner.destroy()
    return _result(marks, ages)


# -- verl ------------------------------------------------------------------------------------------


def verl_rollouter(latencies, size):
    """Derive from verl's class: what a sample costs is ours, when one may start is theirs."""
    import ray
    from verl.experimental.fully_async_policy.fully_async_rollouter import FullyAsyncRollouter

    base = FullyAsyncRollouter.__ray_metadata__.modified_class

    class Rollouter(base):
        def __init__(self, client):  # not the base's: it starts models
            self.config = types.SimpleNamespace(
                async_training=types.SimpleNamespace(trigger_parameter_sync_step=1)
            )
            self.llm_server_manager = types.SimpleNamespace(get_active_server_count=lambda: 1)
            self.concurrent_samples_per_replica = PLACES // size
            self.required_samples = BATCH // size
            self.staleness_threshold, self.total_rollout_steps = BOUND, 10**9
            self.staleness_samples = self.version = 0
            self.paused, self.active_tasks = False, set()
            self.lock, self._resume_event = asyncio.Lock(), asyncio.Event()
            self.pending_queue = asyncio.Queue()
            self.step_start_time, self.idle_start_time = time.time(), 0.0
            self._active_count_history, self._step_samples_history = [], []
            self._step_generated_samples = self._completed_steps = 0
            self._STEP_HISTORY_SIZE = 1
            self.message_queue_client = client

        def _compute_rollout_resource_utilization(self):
            return 0.0

        async def begin(self):
            await self.set_max_required_samples()
            for n in range(20_000):
                self.pending_queue.put_nowait(types.SimpleNamespace(sample_id=f"s{n}", seed=n))
            self.worker = asyncio.create_task(self._processor_worker())

        async def next_version(self):
            self.version += 1
            await self.reset_staleness()

        async def _process_single_sample_streaming(self, sample):
            version = self.version
            await asyncio.sleep(long_tail._slowest(latencies, sample.seed, size))
            await self.message_queue_client.put_sample(version)

    return ray.remote(num_cpus=1, max_concurrency=100)(Rollouter)


def verl(latencies, options):
    import ray
    from omegaconf import OmegaConf
    from verl.experimental.fully_async_policy.message_queue import MessageQueue, MessageQueueClient

    ray.init(num_cpus=8, logging_level="ERROR", include_dashboard=False, log_to_driver=False)
    queue = MessageQueue.remote(
        OmegaConf.create({}), max_queue_size=BATCH // options.size * (BOUND + 1)
    )
    client = MessageQueueClient(queue)
    rollouter = verl_rollouter(latencies, options.size).remote(client)
    ray.get(rollouter.begin.remote())
    marks, ages = [], Counter()
    for step in range(options.steps):
        # As `FullyAsyncTrainer._get_samples_from_queue`: one after another.
        versions = [client.get_sample_sync()[0] for _ in range(BATCH // options.size)]
        ages.update(step - version for version in versions)
        time.sleep(options.mean)
        ray.get(rollouter.next_version.remote())
        marks.append(time.monotonic())
    ray.shutdown()
    return _result(marks, ages)


# -- ours ------------------------------------------------------------------------------------------


def ours(latencies, options, law):
    size = {"groups_per_batch": 16, "group_size": 2, "max_running": PLACES}
    soft = SchedulerConfig(**size, soft_staleness=BOUND, hard_staleness=99)
    bound = plan(soft, latencies, train_s=options.mean).hard_staleness
    config = SchedulerConfig(**size, soft_staleness=BOUND, hard_staleness=bound)
    rate, report = long_tail._run(law, options, config)
    assert report.is_clean
    ages, num = report.staleness, report.num_committed
    mean = sum(age * n for age, n in ages.items()) / num
    return bound, (rate, mean, max(ages), sum(n for a, n in ages.items() if a > BOUND) / num)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--mean", type=float, default=0.1)
    parser.add_argument("--singles", dest="size", action="store_const", const=1, default=2)
    options = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("areal", "verl")}
    print(f"load {os.getloadavg()[0]:.1f}, mean latency {options.mean} s, {options.steps} steps")
    print(
        "| law | scheduler | trajectories/s | mean staleness | worst | older than 2 | bound |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    for law in long_tail.LAWS:
        latencies = long_tail._latencies(law, options.mean)
        rows = {
            f"AReaL {versions['areal']}, 2": ("none", _apart(areal, latencies, options)),
            f"verl {versions['verl']}, 2": ("none", _apart(verl, latencies, options)),
        }
        bound, result = _apart(ours, latencies, options, law)
        rows["ours, mean 2"] = (str(bound), result)
        for name, (bound, (rate, mean, worst, over)) in rows.items():
            print(
                f"| {law} | {name} | {rate:.0f} | {mean:.2f} | {worst} | {over:.0%} | {bound} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
