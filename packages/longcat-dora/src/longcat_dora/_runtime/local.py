"""Controllers as processes of this machine; weights in memory that all of them map."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from longcat_dora._log.tensors import CopiedWeights, Shard
from longcat_dora._rollout.messages import Released, Report

from .processes import ControllerProcess
from .runtime import Runtime
from .travel import Luggage
from .weights import HAS_MEMORY_FILES, SharedWeights, WeightsPool


class LocalRuntime(Runtime):
    """Controllers are processes of this machine. Arguments: see `Runtime`.

    The factory may be any function, a lambda or one of a notebook, too.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pool = WeightsPool()
        self._luggage = Luggage(self.factory)
        self._ahead: dict[int, ControllerProcess] = {}
        """Started, and not employed so far."""

    @contextlib.contextmanager
    def begun_ahead(self) -> Generator[None]:
        """Start the processes: they build their workers while the trainer is made or restored."""
        try:
            for place in range(self.config.num_controllers):
                self._ahead[place] = ControllerProcess(self._luggage, place=place)
            yield
        finally:
            for handle in self._ahead.values():
                handle.kill()
                handle.close()

    def spawn(self, place: int) -> ControllerProcess:
        """Employ a process, started now if it is not the first at its place, and listen to it."""
        handle = self._ahead.pop(place, None) or ControllerProcess(self._luggage, place=place)
        handle.employ(
            deadline_s=self.config.rollout_deadline_s, folder=self.config.path / "log",
            writer=self.manager.writer(),
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        loop.add_reader(handle.connection.fileno(), self._read, handle)
        return handle

    async def join(self, handle: ControllerProcess) -> None:
        """Wait for the process to end; it was told to stop."""
        if not handle.connection.closed:  # one that was lost is closed, and what ended it is told
            asyncio.get_running_loop().remove_reader(handle.connection.fileno())
        await asyncio.to_thread(handle.close)

    def share(self, weights: bytes | memoryview) -> SharedWeights | bytes | memoryview:
        """Put weights where all processes can map them."""
        return self._pool.publish(weights) if HAS_MEMORY_FILES else weights

    def share_arrays(self, shards: Iterator[Shard]) -> SharedWeights | CopiedWeights:
        """Likewise, of arrays as they come."""
        if HAS_MEMORY_FILES:
            return self._pool.publish_arrays(shards)
        return super().share_arrays(shards)

    def _read(self, handle: ControllerProcess) -> None:
        """Take everything a controller has sent."""
        while (report := _receive(handle)) is not None:
            if isinstance(report, Released):
                self._pool.release(handle, handle.holds.pop(report.version, None))
            elif isinstance(report, _Gone):
                self._lose(handle)
                break
            else:
                self.receive(handle, report)
        self.wake()

    def _lose(self, handle: ControllerProcess) -> None:
        asyncio.get_running_loop().remove_reader(handle.connection.fileno())
        if self.is_over:
            return  # `join` waits for it
        handle.kill()
        handle.close()
        self._pool.release(handle)
        self.lost(handle, f"exit code {handle.process.returncode}")


class _Gone:
    """The other end of a pipe is closed."""


def _receive(handle: ControllerProcess) -> Report | _Gone | None:
    """Return the next report, if there is one."""
    try:
        return handle.connection.recv() if handle.connection.poll() else None
    except (EOFError, OSError):
        return _Gone()
