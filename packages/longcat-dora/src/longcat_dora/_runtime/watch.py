"""What each controller has under way, and until when: the manager's side keeps the deadlines.

A controller may be stopped, blocked, or deaf to cancellation; then it says nothing, and only a
clock here can tell.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from longcat_dora._books.manager import RolloutManager
from longcat_dora._rollout.messages import Controller

from .config import RunConfig


@dataclass(slots=True)
class _Watched:
    spawned_at: float
    loads: dict[int, float] = field(default_factory=dict[int, float])
    """Version that its engine was given and has not taken, to when."""
    is_loading: bool = False
    """Whether it has begun to take one: it may hear nothing until it has."""
    loaded_at: float = 0.0
    overdue: list[str] = field(default_factory=list[str])
    """Rollouts for which it is killed."""
    problem: str = ""


class Watch:
    """Deadlines of a run's controllers."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._of: dict[Controller, _Watched] = {}

    def begin(self, handle: Controller) -> None:
        """A controller is being started."""
        self._of[handle] = _Watched(time.monotonic())

    def load(self, handle: Controller, version: int) -> None:
        """A controller was given weights."""
        if handle in self._of:
            self._of[handle].loads[version] = time.monotonic()

    def loading(self, handle: Controller) -> None:
        """Its engine begins to take weights."""
        if handle in self._of:
            self._of[handle].is_loading = True

    def loaded(self, handle: Controller, version: int) -> None:
        """Its engine has taken them."""
        watched = self._of.get(handle)
        if watched is not None:
            watched.loads.pop(version, None)
            watched.loaded_at, watched.is_loading = time.monotonic(), False

    def end(self, handle: Controller) -> tuple[list[str], str]:
        """A controller is gone.

        Return the rollouts that it was killed for, and what is to be said of it.
        """
        watched = self._of.pop(handle, None)
        return ([], "") if watched is None else (watched.overdue, watched.problem)

    @property
    def is_busy(self) -> bool:
        """Whether a controller is being started, or takes weights.

        No stall, as long as it is in time.
        """
        return any(not handle.is_ready or watched.loads for handle, watched in self._of.items())

    def look(self, manager: RolloutManager) -> list[Controller]:
        """Return the controllers that have missed a deadline since the last look.

        They are to be killed.
        """
        now, late = time.monotonic(), list[Controller]()
        limit_s = self.config.rollout_deadline_s + self.config.kill_after_s
        overdue = manager.overdue(limit_s)
        for place, handle in enumerate(manager.controllers):
            watched = self._of.get(handle)
            if watched is None or watched.problem:
                continue
            watched.problem, watched.overdue = self._judge(
                handle, watched, overdue.get(place, []), now
            )
            if watched.problem:
                late.append(handle)
        return late

    def _judge(
        self, handle: Controller, watched: _Watched, overdue: list[str], now: float
    ) -> tuple[str, list[str]]:
        """Say which deadline a controller has missed, and with which rollouts."""
        config = self.config
        if not handle.is_ready:
            if now - watched.spawned_at > config.start_deadline_s:
                return f"it was not ready after start_deadline_s={config.start_deadline_s:g} s", []
            return "", []
        if watched.loads:
            version, at = min(watched.loads.items())
            if now - at > config.load_deadline_s:
                return (
                    f"its engine had not taken the weights of version {version} after"
                    f" load_deadline_s={config.load_deadline_s:g} s"
                ), []
            if watched.is_loading:
                return "", []  # whatever it samples waits for that
        limit_s = config.rollout_deadline_s + config.kill_after_s
        if overdue and now - watched.loaded_at > limit_s:
            return f"it did not end {overdue[0]} after {limit_s:g} s", overdue
        return "", []
