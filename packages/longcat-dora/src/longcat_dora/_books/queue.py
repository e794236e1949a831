"""What is finished and waits to be trained on.

The queue knows where each trajectory lies and what it is worth; its tokens stay in the log's files
until a batch of them is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from longcat_dora._log.payloads import PayloadReader
from longcat_dora._types import Finished, Payload, Trajectory


@dataclass(frozen=True, slots=True)
class Lease:
    """What a step is taken on."""

    names: list[str]
    masked: frozenset[str]
    oldest: int | None
    """With `mask`, the oldest version that is learned from."""
    newest: int


@dataclass(frozen=True, slots=True)
class _Sample:
    finished: Finished
    payload: Payload


class SampleQueue:
    """Finished trajectories by name; which of them may be trained on is the scheduler's affair."""

    def __init__(self, reader: PayloadReader) -> None:
        self._reader = reader
        self._samples: dict[str, _Sample] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def put(self, finished: Finished, payload: Payload) -> None:
        """Take one in."""
        self._samples[finished.id] = _Sample(finished, payload)

    def look(self, names: Iterable[str]) -> list[Finished]:
        """Return what is known of trajectories without reading them."""
        return [self._samples[name].finished for name in names]

    def read(self, names: Iterable[str], *, as_arrays: bool = False) -> list[Trajectory]:
        """Return trajectories whole; they stay in the queue.

        From any thread, if nobody drops them meanwhile.

        With `as_arrays`, their segments hold numpy arrays: see `Trajectory.from_bytes`.
        """
        read = self._reader.read
        return [
            Trajectory.from_bytes(read(self._samples[name].payload), as_arrays=as_arrays)
            for name in names
        ]

    def read_batch(self, lease: Lease, *, as_arrays: bool = False) -> list[Trajectory]:
        """Return the trajectories of a batch as they are to be learned from."""
        batch = self.read(lease.names, as_arrays=as_arrays)
        if lease.oldest is None:
            return batch
        return [
            t.masked_before(lease.newest if t.id in lease.masked else lease.oldest) for t in batch
        ]

    def sync(self, names: Iterable[str]) -> None:
        """Wait until trajectories are on the disk; from any thread, as `read`."""
        self._reader.sync({self._samples[name].payload.file for name in names})

    def drop(self, names: Iterable[str]) -> None:
        """Let go of trajectories; unknown names are ignored."""
        for name in names:
            self._samples.pop(name, None)
