"""Slots that are given out in the order in which they were asked for."""

from __future__ import annotations

import asyncio
from collections import deque

from ._request import EngineFullError


class Slots:
    """Counts free slots, and lets those wait who find none."""

    def __init__(self, num: int) -> None:
        self.num_free = num
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def num_waiting(self) -> int:
        """Who waits for a slot."""
        return len(self._waiting)

    def check(self, max_waiting: int | None) -> None:
        """Check that another one may ask for a slot.

        Raises:
            EngineFullError: None is free, and `max_waiting` wait already.
        """
        if max_waiting is not None and not self.num_free and self.num_waiting >= max_waiting:
            raise EngineFullError(
                f"at most max_waiting={max_waiting} conversations may wait for a slot, "
                f"{self.num_waiting} do"
            )

    async def take(self) -> None:
        """Take a slot; wait while there is none."""
        if self.num_free:
            self.num_free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            # A slot was given at the same moment.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give()
            raise
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def give(self) -> None:
        """Hand a slot to whoever has waited longest, else keep it."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self.num_free += 1

    def fail(self, error: Exception) -> None:
        """End all waiting."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)
