"""What scheduling costs, and whether the contract holds: no peers, no engine.

usage: python scheduling.py [schedules|cost|memory|checker|live] [--num N]

- schedules: random schedules through the state machine, each log checked (default 1,000,000).
- cost: CPU of the manager per trajectory, from admission to commit, with its log, at 1,000 to
  32,000 live.
- memory: bytes of scheduler state per live trajectory.
- checker: events a second that `check` reads from a log on disk.
- live: 32,000 environments in two controller processes, each waiting some 5 s a turn, for 60 s.
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import random
import resource
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

from longcat_dora import (
    EventLog,
    Finished,
    LocalRuntime,
    Payload,
    RolloutManager,
    RunConfig,
    Scheduler,
    SchedulerConfig,
    Task,
    Worker,
    check,
    read_events,
)
from longcat_dora.testing import TabularEngine, TabularTrainer, random_schedule


def _some(job):
    first, num = job
    found = [0] * 6
    for seed in range(first, first + num):
        rng = random.Random(seed)
        hard = rng.choice([0, 1, 2, 4])
        config = SchedulerConfig(
            groups_per_batch=rng.randint(1, 3), group_size=rng.randint(1, 4), hard_staleness=hard,
            soft_staleness=rng.uniform(0, hard), max_running=rng.randint(2, 12),
            max_attempts=rng.randint(1, 3), reuse_ratio=rng.choice([0, 0, 0.5]),
            at_bound=rng.choice(["wait", "wait", "discard", "continue", "mask"]),
            quotas=rng.choice([{}, {"a": 1, "b": 2}]),
        )  # fmt: skip
        report = check(random_schedule(seed, config, num_events=rng.choice([30, 60, 200])))
        for place, value in enumerate((
            1, report.num_events, report.num_committed, len(report.breaches), report.num_moved,
            report.num_reused,
        )):  # fmt: skip
            found[place] += value
    return found


def schedules(num):
    num = num or 1_000_000
    began, total, every = time.perf_counter(), [0] * 6, 2000
    with multiprocessing.Pool(2) as pool:
        for found in pool.imap_unordered(
            _some, [(n, min(every, num - n)) for n in range(0, num, every)]
        ):
            total = [a + b for a, b in zip(total, found, strict=True)]
    seconds = time.perf_counter() - began
    print(
        f"{total[0]:,} schedules, {total[1]:,} events, {total[2]:,} trajectories committed, "
        f"{total[4]:,} moved, {total[5]:,} reused, {total[3]} breaches, {seconds:,.0f} s"
    )


class _Nowhere:
    """A controller to which posting costs nothing."""

    def __init__(self):
        self.running, self.is_ready, self.orders = set(), True, []

    def post(self, order):
        self.orders.append(order)


def _life(live, num):
    """CPU microseconds of the manager per trajectory while `live` are open."""
    size = 8
    config = SchedulerConfig(
        groups_per_batch=live // size // 4, group_size=size, soft_staleness=3, hard_staleness=8,
        max_running=live,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tasks = (Task(f"n{n}", n) for n in range(10**9))
        manager = RolloutManager(Path(folder), config, tasks=tasks)
        controllers = [_Nowhere(), _Nowhere()]
        manager.controllers = controllers
        manager.queue.read = lambda names: [None] * len(names)  # the trainer's cost, not ours
        payload, rng, done, spent = Payload("payloads-000.bin", 0, 0, 0), random.Random(0), 0, 0.0
        manager.feed()
        while done < num:
            for controller in controllers:
                orders, controller.orders = controller.orders, []
                for order in orders:
                    told = Finished(
                        order.trajectory,
                        order.version,
                        [order.version],
                        "",
                        rng.random(),
                        100,
                        50,
                        1.0,
                    )
                    before = time.process_time()
                    manager.finished(controller, told, payload)
                    spent += time.process_time() - before
                    done += 1
            before = time.process_time()
            manager.filter()
            if manager.lease() is not None:
                manager.commit()
            manager.feed()
            spent += time.process_time() - before
        return spent / done * 1e6


def cost(num):
    print("| live | microseconds of CPU a trajectory |\n| --- | --- |")
    for live in (1_000, 4_000, 16_000, 32_000):
        values = sorted(_life(live, max(num or 0, 2 * live, 20_000)) for _ in range(3))
        print(f"| {live:,} | {values[1]:.1f} ({values[0]:.1f}, {values[2]:.1f}) |", flush=True)


def memory(num):
    num = num or 32_000
    gc.collect()
    tracemalloc.start()
    scheduler = Scheduler(SchedulerConfig(groups_per_batch=num // 8, group_size=8, max_running=num))
    for n in range(num // 8):
        scheduler.admit(f"g{n:05d}", task=f"n{n}", domain="")
    while scheduler.start():
        pass
    scheduler.take_events()
    gc.collect()
    print(
        f"{scheduler.num_running:,} live, {tracemalloc.get_traced_memory()[0] / num:,.0f} bytes"
        " each"
    )


def checker(num):
    num = num or 500_000
    with tempfile.TemporaryDirectory() as folder:
        log, written, names = EventLog(Path(folder)), 0, 0
        config = SchedulerConfig(groups_per_batch=4, group_size=8, hard_staleness=4)
        scheduler = Scheduler(config)
        log.append({"kind": "opened", "hard_staleness": 4}, {"kind": "published", "version": 0})
        while written < num:
            while scheduler.can_admit():
                scheduler.admit(f"g{names:05d}", task="t", domain="library")
                names += 1
            while (start := scheduler.start()) is not None:
                scheduler.finish(
                    start.trajectory, reward=0.5, tokens=812, sampled=211, versions=[start.version],
                    domain="library", duration_s=1.25, payload=["payloads-000.bin", 123456, 7890, 1234567],
                )  # fmt: skip
            scheduler.lease()
            scheduler.commit()
            events = scheduler.take_events()
            written += len(events)
            log.append(*events)
        rates = []
        for _ in range(3):
            began = time.perf_counter()
            report = check(read_events(Path(folder)))
            rates.append(report.num_events / (time.perf_counter() - began))
        assert report.is_clean
        size = (Path(folder) / "events.jsonl").stat().st_size
        print(
            f"{report.num_events:,} events, {size / report.num_events:.0f} bytes each: "
            f"{sorted(rates)[1]:,.0f} events/s ({min(rates):,.0f}, {max(rates):,.0f})"
        )


async def _wait(_, policy):
    rng = random.Random()
    reward = 0.0
    for turn in range(3):  # an environment that takes its time
        await asyncio.sleep(rng.expovariate(1 / 5))
        (answer,) = await policy.generate([turn])
        reward += answer % 2
    return reward


def _worker():
    return Worker(engine=TabularEngine(), rollout=_wait)


def live(num):
    num = num or 32_000
    began, looks, steps = time.monotonic(), [], []

    def watch():
        while not stopped.wait(0.5):
            if hasattr(runtime, "manager"):
                looks.append((time.monotonic(), runtime.manager.scheduler.num_running))

    stopped = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        runtime = LocalRuntime(
            RunConfig(
                folder=Path(folder), max_steps=10**6, num_controllers=2, max_seconds=60, save_every=10**6,
                rollout_deadline_s=600,
                scheduler=SchedulerConfig(
                    groups_per_batch=num // 80, group_size=8, soft_staleness=60, hard_staleness=200,
                    max_running=num,
                ),
            ),
            factory=_worker, trainer=TabularTrainer(learning_rate=0.01),
            tasks=(Task(f"n{n}", n % 8) for n in range(10**9)),
            on_step=lambda _: steps.append(time.monotonic()),
        )  # fmt: skip
        threading.Thread(target=watch, daemon=True).start()
        runtime.run()
        stopped.set()
        spent = time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report = check(read_events(Path(folder) / "log"))
    passed = time.monotonic() - began
    print(report.summary())
    seen = [running for at, running in looks if at < steps[-1]]  # then it was ended
    full = next((n for n, running in enumerate(seen) if running >= num * 0.99), len(seen))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    each = max(1, report.num_started)
    print(
        f"{num:,} live after {full / 2:.0f} s, then {min(seen[full:], default=0):,} to "
        f"{max(seen):,}; manager and trainer: {spent / passed:.1%} of a core,"
        f" {spent / each * 1e6:.0f} us a "
        f"trajectory, peak {peak:.0f} MiB; controllers: "
        f"{(children.ru_utime + children.ru_stime) / each * 1e6:.0f} us a trajectory, peak "
        f"{children.ru_maxrss / 1024:.0f} MiB each"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = {f.__name__: f for f in (schedules, cost, memory, checker, live)}
    parser.add_argument("kind", choices=kinds, nargs="?")
    parser.add_argument("--num", type=int)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    for name, kind in kinds.items():
        if options.kind in (None, name):
            print(f"\n{name}")
            kind(options.num)


if __name__ == "__main__":
    main()
