"""Train again on what a run trained on, in its order: the same weights, bit for bit.

An asynchronous run is not reproducible by its seed, since who finishes first is up to the machine.
What it trained on is in its log, and from there on nothing is left to chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from longcat_dora._types import (
    LongcatDoraError,
    Payload,
    Trainer,
    Trajectory,
    wants_arrays,
)

from .events import Event
from .payloads import PayloadReader
from .reader import read_events
from .tensors import digest_of


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


def replay(folder: Path, trainer: Trainer) -> Iterator[ReplayedStep]:
    """Take a run's steps again, one by one; steps that were undone by a restart are left out.

    Args:
        folder: The run's log.
        trainer: As it was when the run began.

    Raises:
        LongcatDoraError: The trainer does not begin where the run did, or the log lacks a
            trajectory.
    """
    log = read_events(folder)
    if log.summary is not None:
        raise LongcatDoraError(
            f"parts of {folder} before number {log.summary.before} are archived: to train again on"
            " what"
            " they hold, put them back"
        )
    steps, recorded, payloads = _read_log(log)
    first = digest_of(trainer.weights())
    if first != recorded.get(0):
        raise LongcatDoraError(
            f"the trainer must begin with the weights of the run, {recorded.get(0)}, and has"
            f" {first}"
        )
    reader, as_arrays = PayloadReader(folder), wants_arrays(trainer)
    try:
        for step in steps:
            batch = [
                _read(reader.read(_payload(payloads, name)), name, step, as_arrays)
                for name in step.names
            ]
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


def _payload(payloads: dict[str, Payload], name: str) -> Payload:
    if name not in payloads:
        raise LongcatDoraError(f"the log must hold every trajectory it trained on, it lacks {name}")
    return payloads[name]


def _read(data: bytes, name: str, step: _Step, as_arrays: bool) -> Trajectory:
    trajectory = Trajectory.from_bytes(data, as_arrays=as_arrays)
    if step.oldest is None:
        return trajectory
    return trajectory.masked_before(step.version + 1 if name in step.masked else step.oldest)
