"""Train again on what a run trained on, in its order: the same weights, bit for bit.

An asynchronous run is not reproducible by its seed, since who finishes first is up to the machine. What it
trained on is in its log, and from there on nothing is left to chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_dora._types import LongcatDoraError, Payload, Trainer, Trajectory

from .log import read_events
from .payloads import PayloadReader

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """One step, taken again."""

    version: int
    """That it led to."""
    digest: str
    """Of the weights it led to now."""
    recorded: str
    """Of the weights it led to then."""
    num_trajectories: int

    @property
    def is_exact(self) -> bool:
        """Whether every bit is the same."""
        return self.digest == self.recorded


@dataclass(frozen=True, slots=True)
class _Step:
    version: int
    names: list[str]
    masked: frozenset[str]
    oldest: int | None
    """With `mask`, the oldest version that was learned from."""


def digest_of(weights: bytes) -> str:
    """Return what the log keeps of weights."""
    return hashlib.blake2b(weights, digest_size=16).hexdigest()


def replay(folder: Path, trainer: Trainer) -> Iterator[ReplayedStep]:
    """Take a run's steps again, one by one; steps that were undone by a restart are left out.

    Args:
        folder: The run's log.
        trainer: As it was when the run began.

    Raises:
        LongcatDoraError: The trainer does not begin where the run did, or the log lacks a trajectory.
    """
    events = list(read_events(folder))
    recorded = {e["version"]: e["digest"] for e in events if e["kind"] == "weights"}
    payloads = {e["trajectory"]: Payload(*e["payload"]) for e in events if e["kind"] == "produced"}
    first = digest_of(trainer.weights())
    if first != recorded.get(0):
        raise LongcatDoraError(
            f"the trainer must begin with the weights of the run, {recorded.get(0)}, and has {first}"
        )
    reader = PayloadReader(folder)
    try:
        for step in _steps(events):
            batch = [_read(reader, payloads, name, step) for name in step.names]
            trainer.train(batch)
            version = step.version + 1
            digest = digest_of(trainer.weights())
            yield ReplayedStep(version, digest, recorded.get(version, ""), len(batch))
    finally:
        reader.close()


def _steps(events: Iterable[Event]) -> list[_Step]:
    """The steps that count, in order."""
    steps: list[_Step] = []
    hard, masks = 0, False
    for event in events:
        if event["kind"] == "opened":
            hard, masks = event["hard_staleness"], event.get("at_bound") == "mask"
        elif event["kind"] == "restored":
            steps = [step for step in steps if step.version < event["version"]]
        elif event["kind"] == "committed":
            names = [*event["trajectories"], *event.get("reused", ())]
            oldest = event["version"] - hard if masks else None
            masked = frozenset(event.get("masked", ()))
            steps.append(_Step(event["version"], names, masked, oldest))
    return steps


def _read(
    reader: PayloadReader, payloads: dict[str, Payload], name: str, step: _Step
) -> Trajectory:
    if name not in payloads:
        raise LongcatDoraError(f"the log must hold every trajectory it trained on, it lacks {name}")
    trajectory = Trajectory.from_bytes(reader.read(payloads[name]))
    if step.oldest is None:
        return trajectory
    return trajectory.masked_before(step.version + 1 if name in step.masked else step.oldest)
