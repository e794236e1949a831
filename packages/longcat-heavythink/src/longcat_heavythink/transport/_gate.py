"""How many calls may be on the wire, learned from a server that refuses some.

- In flight never exceeds the limit; those who wait are served in the order of their coming.
- A refusal (429) lowers the limit to what is still in flight: that many were admitted. Each answer
  raises it by 1 over itself, so by one for every round of answers, up to the maximum.
- A `Retry-After` pauses everybody: the server has said when it will listen again.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    """A semaphore whose limit moves between 1 and `maximum`."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.limit = float(maximum)
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed_until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Wait for a place. Every `enter` that returns is followed by one `leave`."""
        if not self._waiting and self.in_flight < int(self.limit) and not self._is_closed():
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place was given in the moment of the cancellation
            raise

    def leave(self) -> None:
        """Give the place back."""
        self.in_flight -= 1
        self._admit()

    def refused(self, retry_after_s: float | None = None) -> None:
        """Learn from a 429; call it after `leave`."""
        self.limit = float(max(1, min(int(self.limit), self.in_flight)))
        if retry_after_s:
            until = asyncio.get_running_loop().time() + retry_after_s
            self._closed_until_s = max(self._closed_until_s, until)

    def answered(self) -> None:
        """Learn from an answer."""
        if self.limit < self.maximum:
            self.limit = min(float(self.maximum), self.limit + 1 / self.limit)
            self._admit()

    def _is_closed(self) -> bool:
        if not self._closed_until_s:
            return False
        loop = asyncio.get_running_loop()
        if loop.time() >= self._closed_until_s:
            self._closed_until_s = 0.0
            return False
        if self._alarm is None or self._alarm.cancelled():
            self._alarm = loop.call_at(self._closed_until_s, self._reopen)
        return True

    def _reopen(self) -> None:
        self._alarm = None
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.in_flight < int(self.limit) and not self._is_closed():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
