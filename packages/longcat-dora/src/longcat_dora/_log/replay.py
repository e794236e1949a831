"""Train again on what a run trained on, in its order: the same weights, bit for bit.

An asynchronous run is not reproducible by its seed, since who finishes first is up to the machine. What it
trained on is in its log, and from there on nothing is left to chance.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from longcat_dora._types import LongcatDoraError, Payload, Trainer, Trajectory

from .events import Event
from .payloads import PayloadReader
from .reader import read_events

_PART = 64 * 2**20
"""Bytes of weights that one thread digests."""


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


def digest_of(weights: bytes | memoryview) -> str:
    """Return what the log keeps of weights; of long ones, a digest of the digests of their parts, side by side."""
    view = memoryview(weights).cast("B")
    if view.nbytes <= _PART:
        return hashlib.blake2b(view, digest_size=16).hexdigest()
    parts = [view[at : at + _PART] for at in range(0, view.nbytes, _PART)]
    with ThreadPoolExecutor(max_workers=min(len(parts), os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_digest, parts))
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _digest(part: memoryview) -> bytes:
    return hashlib.blake2b(part).digest()


def replay(folder: Path, trainer: Trainer) -> Iterator[ReplayedStep]:
    """Take a run's steps again, one by one; steps that were undone by a restart are left out.

    Args:
        folder: The run's log.
        trainer: As it was when the run began.

    Raises:
        LongcatDoraError: The trainer does not begin where the run did, or the log lacks a trajectory.
    """
    log = read_events(folder)
    if log.summary is not None:
        raise LongcatDoraError(
            f"parts of {folder} before number {log.summary.before} are archived: to train again on what"
            " they hold, put them back"
        )
    steps, recorded, payloads = _read_log(log)
    first = digest_of(trainer.weights())
    if first != recorded.get(0):
        raise LongcatDoraError(
            f"the trainer must begin with the weights of the run, {recorded.get(0)}, and has {first}"
        )
    reader = PayloadReader(folder)
    try:
        for step in steps:
            batch = [_read(reader, payloads, name, step) for name in step.names]
            trainer.train(batch)
            version = step.version + 1
            digest = digest_of(trainer.weights())
            yield ReplayedStep(version, digest, recorded.get(version, ""), len(batch))
    finally:
        reader.close()


def _read_log(
    events: Iterable[Event],
) -> tuple[list[_Step], dict[int, str], dict[str, Payload]]:
    """The steps that count, in order; the digest of each version; where each trajectory lies."""
    steps: list[_Step] = []
    recorded: dict[int, str] = {}
    payloads: dict[str, Payload] = {}
    hard, masks = 0, False
    for event in events:
        if event["kind"] == "opened":
            hard, masks = event["hard_staleness"], event["at_bound"] == "mask"
        elif event["kind"] == "weights":
            recorded[event["version"]] = event["digest"]
        elif event["kind"] == "produced" and "payload" in event:
            payloads[event["trajectory"]] = Payload(*event["payload"])
        elif event["kind"] == "restored":
            steps = [step for step in steps if step.version < event["version"]]
        elif event["kind"] == "committed":
            names = [*event["trajectories"], *event.get("reused", ())]
            oldest = event["version"] - hard if masks else None
            masked = frozenset(event.get("masked", ()))
            steps.append(_Step(event["version"], names, masked, oldest))
    return steps, recorded, payloads


def _read(
    reader: PayloadReader, payloads: dict[str, Payload], name: str, step: _Step
) -> Trajectory:
    if name not in payloads:
        raise LongcatDoraError(f"the log must hold every trajectory it trained on, it lacks {name}")
    trajectory = Trajectory.from_bytes(reader.read(payloads[name]))
    if step.oldest is None:
        return trajectory
    return trajectory.masked_before(step.version + 1 if name in step.masked else step.oldest)
