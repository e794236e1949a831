"""Fakes that ship with the interfaces: a tabular engine and trainer of the standard library.

The policy is a table of logits per context; a context is the last token given, a conversation
answers with one token. It learns, so that whole runs can be tested and shown without torch.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import signal
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ._books.config import SchedulerConfig
from ._books.scheduler import Scheduler
from ._log.events import Event, Opened, Published
from ._runtime.replicas import Completion, ReplicatedEngine
from ._types import EndReason, Policy, Trajectory, Worker

NUM_TOKENS = 8


@dataclass(frozen=True, slots=True)
class TabularSample:
    """One sampled token."""

    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str = "stop"


def _probs(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(value - top) for value in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


class TabularEngine:
    """Implements `Engine`; refuses versions that are not live, so that C1 is tested for real."""

    def __init__(self, *, seed: int = 0, latency_s: float = 0.0) -> None:
        self.tables: dict[int, list[list[float]]] = {}
        self.latency_s = latency_s
        self._open: dict[int, int] = {}
        self._retired: set[int] = set()
        self._ids = itertools.count()
        self._rng = random.Random(seed)
        self._rng_of: dict[int, random.Random] = {}

    def load_weights(self, version: int, weights: bytes | memoryview) -> None:
        """Keep the table of a version."""
        self.tables[version] = json.loads(bytes(weights))

    def retire(self, version: int) -> None:
        """Drop a version when no conversation holds it."""
        self._retired.add(version)
        if version not in self._open.values():
            self.tables.pop(version, None)

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Begin a conversation."""
        if version not in self.tables:
            raise KeyError(f"version {version} must be live, live are {sorted(self.tables)}")
        identifier = next(self._ids)
        self._open[identifier] = version
        self._rng_of[identifier] = self._rng if seed is None else random.Random(seed)
        return identifier

    async def generate(
        self, identifier: int, token_ids: Sequence[int], *, max_tokens: int, temperature: float
    ) -> TabularSample:
        """Sample one token given the last one."""
        await asyncio.sleep(self.latency_s * self._rng.expovariate(1.0))
        probs = _probs(self.tables[self._open[identifier]][token_ids[-1]])
        token = self._rng_of[identifier].choices(range(NUM_TOKENS), probs)[0]
        return TabularSample([token], [math.log(probs[token])])

    async def close(self, identifier: int) -> None:
        """End a conversation."""
        version = self._open.pop(identifier)
        del self._rng_of[identifier]
        if version in self._retired:
            self.retire(version)


class TabularReplica:
    """Implements `Replica`: one table at a time."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.latency_s, self._table = latency_s, [[0.0] * NUM_TOKENS] * NUM_TOKENS

    async def load_weights(self, version: int, weights: bytes | memoryview) -> None:
        """Replace the table."""
        del version
        self._table = json.loads(bytes(weights))

    async def complete(
        self, token_ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        """Sample one token given the last one."""
        del max_tokens, temperature
        rng = random.Random(seed)
        probs = _probs(self._table[token_ids[-1]])
        await asyncio.sleep(self.latency_s * rng.expovariate(1.0))
        token = rng.choices(range(NUM_TOKENS), probs)[0]
        return Completion([token], [math.log(probs[token])])


class TabularTrainer:
    """Implements `Trainer`: REINFORCE with the group's mean as baseline."""

    def __init__(self, *, num_contexts: int = NUM_TOKENS, learning_rate: float = 1.0) -> None:
        self.table = [[0.0] * NUM_TOKENS for _ in range(num_contexts)]
        self.learning_rate = learning_rate

    def train(self, batch: Sequence[Trajectory]) -> dict[str, float]:
        """Raise what did better than its group."""
        rewards: dict[str, list[float]] = defaultdict(list)
        for trajectory in batch:
            rewards[trajectory.group].append(trajectory.reward)
        for trajectory in batch:
            own = rewards[trajectory.group]
            advantage = trajectory.reward - sum(own) / len(own)
            context, token = trajectory.segments[0].token_ids[-2:]
            probs = _probs(self.table[context])
            for other in range(NUM_TOKENS):
                gradient = (other == token) - probs[other]
                self.table[context][other] += self.learning_rate * advantage * gradient
        return {"reward": sum(t.reward for t in batch) / len(batch)}

    def weights(self) -> bytes:
        """The table."""
        return json.dumps(self.table).encode()

    def save(self, folder: Path) -> None:
        """Write the table."""
        (folder / "table.json").write_bytes(self.weights())

    def restore(self, folder: Path) -> None:
        """Read the table."""
        self.table = json.loads((folder / "table.json").read_bytes())


async def guess(secret: int, policy: Policy) -> float:
    """A rollout: the answer to `n` is `(3 * n + 1) mod 8`."""
    (answer,) = await policy.generate([secret])
    return float(answer == (3 * secret + 1) % NUM_TOKENS)


def replicated_worker(num_replicas: int = 2, latency_s: float = 0.0) -> Worker:
    """A worker that plays `guess` with several replicas of one version each."""
    replicas = [TabularReplica(latency_s=latency_s) for _ in range(num_replicas)]
    return Worker(engine=ReplicatedEngine(replicas), rollout=guess)


def tabular_worker(
    latency_s: float = 0.0, faults: Mapping[int, Literal["raise", "hang", "die"]] | None = None
) -> Worker:
    """A worker that plays `guess`, and breaks on purpose at the secrets named in `faults`.

    `"raise"` ends the rollout with an error, `"hang"` never ends it, `"die"` kills the process
    that samples it, as the kernel does when memory is short.
    """

    async def rollout(secret: int, policy: Policy) -> float:
        reward = await guess(secret, policy)
        fault = (faults or {}).get(secret)
        if fault == "raise":
            raise RuntimeError(f"the world broke at {secret}")
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return reward

    return Worker(engine=TabularEngine(latency_s=latency_s), rollout=rollout)


def random_schedule(seed: int, config: SchedulerConfig, *, num_events: int = 400) -> list[Event]:
    """Drive a scheduler with random events, then to its end; return its log, for `check`.

    Old trajectories are seldom the ones that finish (a long tail); some fail, some are masked, some
    groups have no signal; of those that are moved to another version some finish before they hear
    of it.
    """
    rng, scheduler = random.Random(seed), Scheduler(config)
    run = _Schedule(rng, scheduler)
    for _ in range(num_events):
        run.step()
    if run.is_leased:
        scheduler.commit()
    run.drain()
    assert scheduler.num_open_groups == 0, "something is stuck"
    scheduler.end()
    opened: Opened = {
        "kind": "opened",
        "hard_staleness": config.hard_staleness,
        "at_bound": config.at_bound,
    }
    published: Published = {"kind": "published", "version": 0}
    return [opened, published, *scheduler.take_events(), {"kind": "closed"}]


class _Schedule:
    def __init__(self, rng: random.Random, scheduler: Scheduler) -> None:
        self.rng, self.scheduler = rng, scheduler
        self.running: list[str] = []
        self.late: dict[str, int] = {}
        """Moved, and not yet told: the version that they are still sampled on."""
        self.version_of: dict[str, int] = {}
        self.is_leased, self.num_groups = False, 0

    def step(self) -> None:
        choice, scheduler = self.rng.random(), self.scheduler
        if choice < 0.15 and scheduler.can_admit():
            domain = scheduler.next_domain(["a", "b"])
            scheduler.admit(f"g{self.num_groups}", task="t", domain=domain)
            self.num_groups += 1
        elif choice < 0.5:
            self.start()
        elif choice < 0.85 and self.running:
            index = int(len(self.running) * self.rng.random() ** 0.3)
            self.finish(self.running.pop(index))
        elif self.is_leased:
            scheduler.commit()
            self.is_leased = False
        else:
            for group in scheduler.take_complete():
                if self.rng.random() < 0.05:
                    scheduler.evict(group, EndReason.NO_SIGNAL)
            self.is_leased = scheduler.lease() is not None
            self.hear()

    def start(self) -> bool:
        start = self.scheduler.start()
        if start is not None:
            self.running.append(start.trajectory)
            self.version_of[start.trajectory] = start.version
        return start is not None

    def finish(self, name: str) -> None:
        chance = self.rng.random()
        if chance < 0.05:
            self.scheduler.fail(name, EndReason.MASKED)
        elif chance < 0.3:
            self.scheduler.fail(name, EndReason.FAILED)
        else:
            version = self.late.pop(name, self.version_of[name])
            self.scheduler.finish(name, version=version)

    def hear(self) -> None:
        discarded = set(self.scheduler.take_discarded())
        self.running = [name for name in self.running if name not in discarded]
        for name, version in self.scheduler.take_moved():
            if self.rng.random() < 0.2:
                self.late.setdefault(name, self.version_of[name])
            else:
                self.late.pop(name, None)
            self.version_of[name] = version

    def drain(self) -> None:
        """Finish everything: nothing may be stuck."""
        while True:
            while self.start() or self.running:
                name = self.running.pop()
                self.scheduler.finish(name, version=self.late.pop(name, self.version_of[name]))
            leased = self.scheduler.lease(at_least=1)
            self.hear()
            if leased is None and not self.start():
                return
            if leased is not None:
                self.scheduler.commit()
