"""The scheduler under simulated time: what a staleness bound costs, before a cluster is paid for.

- The object that decides is the very `Scheduler` of a real run; only latencies and the clock are
  made up.
- `plan` tries every hard bound on one trace of latencies and names the least that costs nothing.

Bound, in the config's own symbols: a trajectory of latency L is sampled while at most
`ceil(L / t)` steps of t seconds are taken, and waits for one more to be trained on; so
`hard_staleness >= ceil(L_max / t) + 1` never makes the trainer wait.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from .config import SchedulerConfig
from .scheduler import Scheduler, Start

_FREE = 0.99
"""Share of the unbounded throughput that counts as the same."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulated run came to."""

    num_steps: int
    seconds: float
    num_trained: int
    staleness: Counter[int] = field(default_factory=Counter[int])
    """Trained trajectories by how many steps old they were."""
    trainer_idle_share: float = 0.0
    load_ratio: float = 0.0
    """Mean share of the places that were sampling."""
    num_discarded: int = 0
    """Trajectories that were ended at the bound."""

    @property
    def throughput(self) -> float:
        """Trajectories trained on a second."""
        return self.num_trained / self.seconds if self.seconds else 0.0

    @property
    def mean_staleness(self) -> float:
        """In steps."""
        return sum(k * n for k, n in self.staleness.items()) / max(1, self.num_trained)


def simulate(
    config: SchedulerConfig,
    latencies: Sequence[float],
    *,
    train_s: float,
    num_steps: int,
    seed: int,
    latency_of: Callable[[Start], float] | None = None,
) -> Simulation:
    """Run so many steps; each trajectory takes one of `latencies` seconds, drawn anew.

    With `latency_of`, that says how long a trajectory takes: groups are named as a runtime names
    them, so that a world that draws by its seed can be told beforehand what it will draw.

    Raises:
        ValueError: There are no latencies, or a time is not positive.
    """
    are_good = all(0 < seconds < math.inf for seconds in [*latencies, train_s])
    if not latencies or not are_good or num_steps < 1:
        raise ValueError(
            "need positive latencies, train_s > 0 and num_steps >= 1, got "
            f"{len(latencies)} latencies, {train_s} and {num_steps}"
        )
    rng = Random(seed)
    return _Run(config, latency_of or (lambda _: rng.choice(latencies)), train_s).run(num_steps)


class _Run:
    def __init__(
        self, config: SchedulerConfig, latency_of: Callable[[Start], float], train_s: float
    ) -> None:
        self.scheduler, self.latency_of, self.train_s = Scheduler(config), latency_of, train_s
        self.now, self.num_groups = 0.0, 0
        self.due: list[tuple[float, int, str]] = []
        self.versions: dict[str, int] = {}
        self.training_until: float | None = None
        self.idle_s = self.load_s = 0.0
        self.num_discarded = 0

    def run(self, num_steps: int) -> Simulation:
        scheduler, staleness, order = self.scheduler, Counter[int](), 0
        leased: list[str] = []
        while scheduler.version < num_steps:
            while scheduler.can_admit():
                scheduler.admit(f"g{self.num_groups:05d}", task="", domain="")
                self.num_groups += 1
            while (start := scheduler.start()) is not None:
                order += 1
                self.versions[start.trajectory] = start.version
                at = self.now + self.latency_of(start)
                heapq.heappush(self.due, (at, order, start.trajectory))
            if self.training_until is None and (groups := scheduler.lease()) is not None:
                leased = [name for group in groups for name in scheduler.members(group)]
                self.training_until = self.now + self.train_s
            self._to_next_event()
            if self.training_until is not None and self.training_until <= self.now:
                staleness.update(scheduler.version - self.versions.pop(name) for name in leased)
                scheduler.commit()
                self.training_until = None
            self.num_discarded += len(scheduler.take_discarded())
            while self.due and self.due[0][0] <= self.now:
                name = heapq.heappop(self.due)[2]
                if scheduler.is_running(name):
                    scheduler.finish(name)
            scheduler.take_events()
        seconds, num = self.now, sum(staleness.values())
        return Simulation(
            num_steps, seconds, num, staleness, self.idle_s / seconds,
            self.load_s / seconds / scheduler.config.max_running, self.num_discarded,
        )  # fmt: skip

    def _to_next_event(self) -> None:
        times = [self.due[0][0]] if self.due else []
        if self.training_until is not None:
            times.append(self.training_until)
        passed = min(times) - self.now
        self.load_s += passed * self.scheduler.num_running
        if self.training_until is None:
            self.idle_s += passed
        self.now += passed


@dataclass(frozen=True, slots=True)
class Plan:
    """What hard bounds cost on a trace of latencies."""

    hard_staleness: int
    """The least bound that costs nothing: 99% of the unbounded throughput."""
    sufficient: int
    """`ceil(L_max / t) + 1`, with t the steps' mean seconds: never waits, whatever the draws."""
    gain: float
    """Throughput under that bound over the synchronous one's."""
    by_bound: dict[int, Simulation]
    synchronous: Simulation

    def __str__(self) -> str:
        rows = [
            "hard bound   trajectories/s   x sync   trainer idle   mean staleness   worst",
            _row("sync", self.synchronous, self.synchronous),
        ]
        rows += [_row(str(bound), run, self.synchronous) for bound, run in self.by_bound.items()]
        verdict = (
            f"hard_staleness={self.hard_staleness} costs nothing here and gives {self.gain:.2f}"
            " times "
            f"the synchronous throughput; {self.sufficient} never waits."
        )
        return "\n".join([*rows, verdict])


def _row(name: str, run: Simulation, sync: Simulation) -> str:
    return (
        f"{name:>10}   {run.throughput:14.2f}   {run.throughput / sync.throughput:6.2f}   "
        f"{run.trainer_idle_share:12.0%}   {run.mean_staleness:14.2f}   "
        f"{max(run.staleness, default=0):5d}"
    )


def plan(
    config: SchedulerConfig,
    latencies: Sequence[float],
    *,
    train_s: float,
    num_steps: int = 200,
    seed: int = 0,
    most: int = 16,
) -> Plan:
    """Try hard bounds from `soft_staleness` on, and the synchronous way, on one trace of latencies.

    Args:
        config: Sizes, and the soft target; its hard bound is not used.
        latencies: Seconds of trajectories, as measured: `read_trajectories` has them.
        train_s: Seconds of a training step.
        num_steps: Simulated for each bound.
        seed: Of the draws; the same for each bound.
        most: The greatest bound tried.

    Raises:
        ValueError: See `simulate`.
    """

    def run(soft: float, hard: int) -> Simulation:
        changed = dataclasses.replace(config, soft_staleness=soft, hard_staleness=hard)
        return simulate(changed, latencies, train_s=train_s, num_steps=num_steps, seed=seed)

    if config.soft_staleness > most:
        raise ValueError(
            f"soft_staleness must be at most {most}, the greatest bound tried, got"
            f" {config.soft_staleness}"
        )
    unbounded = run(config.soft_staleness, 10**9)
    by_bound: dict[int, Simulation] = {}
    free = most
    for bound in range(math.ceil(config.soft_staleness), most + 1):
        by_bound[bound] = run(config.soft_staleness, bound)
        if by_bound[bound].throughput >= _FREE * unbounded.throughput:
            free = bound
            break
    synchronous = run(0, 0)
    step_s = by_bound[free].seconds / num_steps
    gain = by_bound[free].throughput / synchronous.throughput
    return Plan(free, math.ceil(max(latencies) / step_s) + 1, gain, by_bound, synchronous)
