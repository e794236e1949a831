"""Long-tailed rollouts under five ways to schedule.

Real processes and the wall clock, beside the simulator.

usage: python long_tail.py [--steps 60] [--mean 0.1]

Latencies are drawn from three laws with the same mean, cut at twelve times it; a step of the
trainer takes as long as a rollout on average, and takes 32 trajectories; 64 places. The ways are
settings of one scheduler:

- sync: nothing is sampled ahead.
- one step off: one batch ahead, and no older.
- unbounded: soft target 2, no hard bound; what an admission rule that bounds the mean gives.
- discard: soft target 2, what is older than 2 is thrown away and sampled anew; the drop rule.
- bounded: soft target 2, and the hard bound that `plan` finds on these latencies; the default way.
"""

import argparse
import asyncio
import functools
import math
import os
import random
import tempfile
import time
from pathlib import Path

from longcat_dora import (
    LocalRuntime,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
    check,
    plan,
    read_events,
    simulate,
)
from longcat_dora.testing import TabularEngine, TabularTrainer

CAP = 12


def _lognormal(rng):
    return math.exp(rng.gauss(-0.5, 1.0))


def _pareto(rng):
    return rng.paretovariate(1.6) * 0.375


def _two_kinds(rng):
    return 8.2 if rng.random() < 0.05 else 0.62


LAWS = {"lognormal": _lognormal, "pareto": _pareto, "two kinds": _two_kinds}


def _latencies(law, mean, num=4000):
    rng = random.Random(0)
    raw = [min(CAP, LAWS[law](rng)) for _ in range(num)]
    scale = mean / (sum(raw) / len(raw))
    return [value * scale for value in raw]


def _draw(latencies, seed):
    """What a trajectory of that seed takes, in the run and in its simulation."""
    return random.Random(seed).choice(latencies)


def _slowest(latencies, seed, size):
    """What a group takes whose members run side by side."""
    return max(_draw(latencies, size * seed + member) for member in range(size))


def worker(law, mean):
    latencies = _latencies(law, mean)

    async def rollout(question, policy):
        (answer,) = await policy.generate([question])
        await asyncio.sleep(_draw(latencies, policy.seed))
        return answer + random.random()  # always a signal

    return Worker(engine=TabularEngine(), rollout=rollout)


class SlowTrainer(TabularTrainer):
    """Takes as long as it says, and learns nothing."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def train(self, batch):
        time.sleep(self.seconds)
        return {"reward": 0.0}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--mean", type=float, default=0.1)
    options = parser.parse_args()
    size = {"groups_per_batch": 16, "group_size": 2, "max_running": 64}
    print(f"load {os.getloadavg()[0]:.1f}, mean latency {options.mean} s, {options.steps} steps")
    print(
        "| law | way | trajectories/s | x sync | simulated | mean staleness | worst | thrown away |"
        " older than the bound |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for law in LAWS:
        latencies = _latencies(law, options.mean)
        soft2 = SchedulerConfig(**size, soft_staleness=2, hard_staleness=99)
        found = plan(soft2, latencies, train_s=options.mean).hard_staleness
        ways = {
            "sync": {"soft_staleness": 0, "hard_staleness": 0},
            "one step off": {"soft_staleness": 1, "hard_staleness": 1},
            "unbounded": {"soft_staleness": 2, "hard_staleness": 10**6},
            "discard at 2": {"soft_staleness": 2, "hard_staleness": 2, "at_bound": "discard"},
            f"bounded by {found}": {"soft_staleness": 2, "hard_staleness": found},
        }
        sync = None
        for way, bounds in ways.items():
            config = SchedulerConfig(**size, **bounds)
            rate, report = _run(law, options, config)
            sync = sync or rate
            simulated = simulate(
                config, latencies, train_s=options.mean, num_steps=options.steps, seed=0,
                latency_of=lambda start, latencies=latencies: _draw(latencies, start.seed(0)),
            )  # fmt: skip
            lost = report.reasons["expired"]
            num = report.num_committed
            over = sum(n for age, n in report.staleness.items() if age > found)
            assert report.is_clean
            mean = sum(age * n for age, n in report.staleness.items()) / num
            print(
                f"| {law} | {way} | {rate:.0f} | {rate / sync:.2f} |"
                f" {simulated.throughput / rate:.2f} | "
                f"{mean:.2f} | {max(report.staleness)} | {lost / (num + lost):.0%} |"
                f" {over / num:.0%} |",
                flush=True,
            )


def _run(law, options, config):
    with tempfile.TemporaryDirectory() as folder:
        marks = []
        LocalRuntime(
            RunConfig(
                folder=Path(folder),
                max_steps=options.steps,
                num_controllers=1,
                scheduler=config,
                save_every=10**6,
            ),
            factory=functools.partial(worker, law, options.mean),
            trainer=SlowTrainer(options.mean),
            tasks=(Task(f"n{n}", n % 8) for n in range(10**6)),
            on_step=lambda _: marks.append(time.monotonic()),
        ).run()
        report = check(read_events(Path(folder) / "log"))
    # From the first step on: processes take their time to start.
    return (options.steps - 1) * 32 / (marks[-1] - marks[0]), report


if __name__ == "__main__":
    main()
