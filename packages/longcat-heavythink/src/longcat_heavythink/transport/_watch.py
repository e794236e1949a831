"""One timer that watches all calls of an endpoint, since a timer for each costs as much as parsing.

It looks every `period_s`. A call that is past its deadline, or has had no byte for too long, is
cancelled with `expired` set, so that it can tell this from being cancelled from outside.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from longcat_heavythink._replies import Failure, Timing

_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Watched:
    """What has happened to one call so far."""

    task: asyncio.Task[object]
    num_cancels: int
    """Cancellations of the task before the call."""
    started_s: float = field(default_factory=time.monotonic)
    heard_s: float = _NEVER
    """When the server was last heard, or asked; never while no try is under way."""
    expired: str = ""
    """`deadline` or `silence`, once the watch has cancelled it."""
    tries: int = 0
    waited_s: float = 0.0
    first_token_s: float | None = None
    has_shown: bool = False
    """Whether pieces of the answer went to somebody."""
    last: Failure | None = None

    def timing(self) -> Timing:
        """Return the call's seconds until now."""
        total_s = time.monotonic() - self.started_s
        return Timing(total_s, self.waited_s, self.first_token_s, max(1, self.tries))

    def is_ours(self, reason: str) -> bool:
        """Say, of a cancellation that was caught, whether the watch did it, and take it back."""
        if self.expired != reason:
            return False
        self.expired = ""
        return self.task.uncancel() <= self.num_cancels


class Watch:
    """Watches the calls of one endpoint in one loop."""

    def __init__(self, timeout_s: float, deadline_s: float) -> None:
        self._timeout_s, self._deadline_s = timeout_s, deadline_s
        self.period_s = min(1.0, max(0.005, min(timeout_s, deadline_s) / 20))
        self._calls: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self) -> Watched:
        """Watch the current task's call; every `add` is followed by one `remove`."""
        task = asyncio.current_task()
        assert task is not None
        call = Watched(task, task.cancelling())
        self._calls.add(call)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.period_s, self._look)
        return call

    def remove(self, call: Watched) -> None:
        """Stop watching a call."""
        self._calls.discard(call)
        if not self._calls and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = time.monotonic()
        for call in self._calls:
            if call.expired:
                continue
            if now - call.started_s >= self._deadline_s:
                call.expired = "deadline"
            elif now - call.heard_s >= self._timeout_s:
                call.expired = "silence"
            if call.expired:
                call.task.cancel()
        self._timer = asyncio.get_running_loop().call_later(self.period_s, self._look)
