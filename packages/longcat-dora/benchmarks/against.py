"""What the runtime costs beside an earlier commit of itself: both in turns, in one run.

usage: python against.py --old FOLDER [--repeats 5]

FOLDER is `packages/longcat-dora` of another checkout (`git worktree add`). Five figures:

- manager: CPU microseconds a trajectory from admission to commit, log included, at 4,000 live.
- log: events a second that are read from a log on disk and judged, without trajectories' bytes.
- queue: trajectories of 49 KB a second, from one process's file to a reader here, with their
  events.
- run: steps a second of a whole run with a controller of its own, rollouts of 5 ms; commits synced
  where they are.
- tail: trajectories a second of a whole run whose rollouts take 0.1 s on average by a Pareto law,
  under the hard bound that `plan` finds (`long_tail.py`).
"""

import argparse
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

WORSE = {"manager": 1, "log": -1, "queue": -1, "run": -1, "tail": -1}
"""1 where more is worse."""


def manager(num=16_000, live=4_000):
    from longcat_dora import Finished, Payload, RolloutManager, SchedulerConfig, Task

    class Nowhere:
        def __init__(self):
            self.running, self.is_ready, self.orders = set(), True, []

        def post(self, *order):
            self.orders.append(order)

    config = SchedulerConfig(
        groups_per_batch=live // 32,
        group_size=8,
        soft_staleness=3,
        hard_staleness=8,
        max_running=live,
    )
    with tempfile.TemporaryDirectory() as folder:
        tasks = (Task(f"n{n}", n) for n in range(10**9))
        books = RolloutManager(Path(folder), config, tasks=tasks)
        controller = Nowhere()
        books.controllers = [controller]
        books.queue.read = lambda names, **_: [None] * len(names)  # the trainer's cost, not ours
        payload, rng, done, spent = Payload("payloads-000.bin", 0, 0, 0), random.Random(0), 0, 0.0
        books.feed()
        while done < num:
            orders, controller.orders = controller.orders, []
            for order in orders:
                new = order[0] if len(order) == 1 else None
                name, at = (new.trajectory, new.version) if new else (order[1], order[5])
                told = Finished(name, at, [at], "", rng.random(), 100, 50, 1.0)
                before = time.process_time()
                books.finished(controller, told, payload)
                spent += time.process_time() - before
                done += 1
            before = time.process_time()
            books.filter()
            if books.lease() is not None:
                books.commit()
            books.feed()
            spent += time.process_time() - before
        return spent / done * 1e6


def log(num=150_000):
    from longcat_dora import EventLog, Scheduler, SchedulerConfig, check, read_events

    with tempfile.TemporaryDirectory() as folder:
        writer, written, names = EventLog(Path(folder)), 0, 0
        scheduler = Scheduler(SchedulerConfig(groups_per_batch=4, group_size=8, hard_staleness=4))
        opened = {"kind": "opened", "hard_staleness": 4, "at_bound": "wait"}
        writer.append(opened, {"kind": "published", "version": 0})
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
            writer.append(*events)
        began = time.process_time()
        report = check(iter(read_events(Path(folder))))
        assert report.is_clean
        return report.num_events / (time.process_time() - began)


def queue(num=3_000, size=49_355):
    from longcat_dora import EventLog, PayloadFile, PayloadReader

    data = os.urandom(size)
    with tempfile.TemporaryDirectory() as folder:
        reader, writer = PayloadReader(Path(folder), verify=False), EventLog(Path(folder))
        file = PayloadFile(Path(folder), "payloads-000.bin")
        began = time.perf_counter()
        for n in range(num):
            p = file.append([data[:100], data[100:]])
            writer.append(
                {"kind": "produced", "trajectory": f"t{n}", "group": "g", "version": 0,
                 "payload": [p.file, p.offset, p.length, p.crc]}
            )  # fmt: skip
            assert len(reader.read(p)) == size
        return num / (time.perf_counter() - began)


def run(steps=150):
    from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
    from longcat_dora.testing import TabularTrainer, tabular_worker

    times = []
    with tempfile.TemporaryDirectory() as folder:
        LocalRuntime(
            RunConfig(folder=Path(folder), max_steps=steps, save_every=50,
                      scheduler=SchedulerConfig(groups_per_batch=2, group_size=4)),
            factory=functools.partial(tabular_worker, 0.005), trainer=TabularTrainer(learning_rate=0.01),
            tasks=(Task(f"n{n}", n % 8) for n in range(10**6)),
            on_step=lambda _: times.append(time.perf_counter()),
        ).run()  # fmt: skip
    return (len(times) - 1) / (times[-1] - times[0])


def tail(steps=100, mean=0.1):
    import long_tail
    from longcat_dora import SchedulerConfig, plan

    size = {"groups_per_batch": 16, "group_size": 2, "max_running": 64, "soft_staleness": 2}
    latencies = long_tail._latencies("pareto", mean)
    found = plan(SchedulerConfig(**size, hard_staleness=99), latencies, train_s=mean)
    options = argparse.Namespace(steps=steps, mean=mean)
    rate, report = long_tail._run(
        "pareto", options, SchedulerConfig(**size, hard_staleness=found.hard_staleness)
    )
    assert report.is_clean
    return rate


def _measure(package, name):
    environment = {**os.environ, "PYTHONPATH": str(Path(package) / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=sorted(WORSE))
    options = parser.parse_args()
    if options.one:
        print(globals()[options.one]())
        return
    here, rows = Path(__file__).parents[1], []
    for name in WORSE:
        pairs = [
            (_measure(options.old, name), _measure(here, name)) for _ in range(options.repeats)
        ]
        ratios = sorted((new / old) ** WORSE[name] for old, new in pairs)
        olds, news = zip(*pairs, strict=True)
        rows.append([
            name, round(median(olds), 1), round(median(news), 1), round(median(ratios), 2),
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
        ])  # fmt: skip
        print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    claim = "What each costs now, as a multiple of what it cost before: " + ", ".join(
        f"{row[0]} {row[3]}" for row in rows
    )
    print(json.dumps({
        "title": "Beside the commit before the proof failed closed", "claim": claim,
        "columns": ["what", "before", "now", "cost, times", "spread"], "rows": rows,
        "spread": f"least to greatest of {options.repeats} pairs in turns",
        "notes": [
            ("manager: CPU microseconds a trajectory; log: events/s; queue: trajectories/s; run:"
            " steps/s; tail: trajectories/s"),
            ("the run waits at each step until what it trained on is on the disk; before, it did"
            " not"),
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
