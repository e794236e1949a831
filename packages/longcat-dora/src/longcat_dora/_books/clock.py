"""Since when each rollout runs, by this side's clock; and what the next step waits for."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from longcat_dora._rollout.messages import Controller

from .scheduler import Scheduler


class Clock:
    """Rollouts that are under way, in the order they were started."""

    def __init__(self) -> None:
        self.started_at: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """A rollout is ordered."""
        self.started_at[name] = time.monotonic()

    def end(self, name: str) -> None:
        """A rollout is over; unknown names are ignored."""
        self.started_at.pop(name, None)

    def older_than(self, limit_s: float) -> set[str]:
        """Return the rollouts that were started longer ago than this."""
        before = time.monotonic() - limit_s
        # The first that is in time ends the search.
        old = itertools.takewhile(lambda item: item[1] < before, self.started_at.items())
        return {name for name, _ in old}

    def age_of_oldest_s(self) -> float:
        """Seconds since the oldest was started; 0 if none is under way."""
        now = time.monotonic()
        return now - min(self.started_at.values(), default=now)

    def explain(self, scheduler: Scheduler, controllers: Sequence[Controller]) -> str:
        """Say in one line what the next step waits for."""
        blocked = scheduler.blocked_by()
        if blocked:
            shown = ", ".join(f"{name} ({self._whose(name, controllers)})" for name in blocked[:3])
            more = f" and {len(blocked) - 3} more" if len(blocked) > 3 else ""
            return f"the trainer waits for {shown}{more} to keep the hard bound"
        if self.started_at:
            oldest = min(self.started_at, key=lambda name: self.started_at[name])
            return (
                f"the trainer waits for {len(self.started_at)} rollouts, the oldest is {oldest} "
                f"({self._whose(oldest, controllers)})"
            )
        if not any(controller.is_ready for controller in controllers):
            return "no controller is ready yet"
        return "nothing is running"

    def _whose(self, name: str, controllers: Sequence[Controller]) -> str:
        now = time.monotonic()
        place = next((i for i, c in enumerate(controllers) if name in c.running), None)
        return f"controller {place}, {now - self.started_at.get(name, now):.0f} s"
