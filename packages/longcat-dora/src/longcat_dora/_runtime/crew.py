"""A run's controllers: started, heard, given weights, watched, and replaced when they are lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from longcat_dora._books.manager import RolloutManager
from longcat_dora._rollout import messages
from longcat_dora._rollout.messages import (
    Broken,
    Controller,
    Loaded,
    Loading,
    LoadWeights,
    Noted,
    Ready,
    Report,
    RetireVersion,
    RolloutFailed,
    RolloutFinished,
)
from longcat_dora._types import EndReason, LongcatDoraError

from .config import RunConfig
from .failures import Failures
from .watch import Watch


class Crew:
    """Keeps controllers at work.

    Args:
        config: The run.
        spawn: Starts a controller at a place.
    """

    def __init__(self, config: RunConfig, spawn: Callable[[int], Controller]) -> None:
        self.config, self._spawn = config, spawn
        self.handles: list[Controller] = []
        self.num_restarts = 0
        self._restarts_since_step = 0
        self._manager: RolloutManager | None = None
        self._watch, self._failures = Watch(config), Failures(config)
        self._weights: Any = None
        """As orders carry them; the newest version's."""

    @property
    def manager(self) -> RolloutManager:
        """Whom they work for."""
        assert self._manager is not None
        return self._manager

    @property
    def is_busy(self) -> bool:
        """Whether one is being started, or takes weights: no stall, as long as it is in time."""
        return self._watch.is_busy

    def begin(self, manager: RolloutManager) -> None:
        """Start all of them."""
        self._manager = manager
        for place in range(self.config.num_controllers):
            self.handles.append(self._start(place))
        manager.controllers = list(self.handles)

    def _start(self, place: int) -> Controller:
        handle = self._spawn(place)
        self._watch.begin(handle)
        return handle

    def receive(self, handle: Controller, report: Report) -> None:
        """Take a report of a controller."""
        match report:
            case Ready(found):
                if found != messages.FORMAT:
                    raise LongcatDoraError(
                        f"a controller speaks format {found}, this is {messages.FORMAT}: versions"
                        " of longcat-dora differ"
                    )
                self._give_weights(handle)
                handle.is_ready = True
            case Loading():
                self._watch.loading(handle)
            case Loaded(version):
                self._watch.loaded(handle, version)
            case RolloutFinished(finished, payload):
                if self.manager.finished(handle, finished, payload):
                    self._failures.clear()
            case RolloutFailed(trajectory, reason, detail):
                self.manager.failed(handle, trajectory, reason, detail)
                self._failures.count(reason, detail)
            case Noted(text):
                self.manager.notice(text)
            case Broken(problem):
                raise LongcatDoraError(f"a controller cannot go on: {problem}")
            case _:
                raise AssertionError(f"a runtime must take {report!r} itself")

    def _give_weights(self, handle: Controller) -> None:
        version = self.manager.scheduler.version
        handle.post(LoadWeights(version, self._weights))
        self._watch.load(handle, version)

    def publish(self, version: int, weights: Any) -> None:
        """Give the newest weights to every controller that is ready, and to those that will be."""
        self._weights = weights
        for handle in self.handles:
            if handle.is_ready:
                self._give_weights(handle)
                handle.post(RetireVersion(version - 1))

    def look(self) -> None:
        """Kill those that keep no deadline."""
        for handle in self._watch.look(self.manager):
            handle.kill()

    def took_step(self) -> None:
        """A step was taken: restarts are counted anew."""
        self._restarts_since_step = 0

    def lost(self, handle: Controller, how: str) -> None:
        """A controller died: what it was sampling ends, and another one takes its place.

        Raises:
            LongcatDoraError: Too many have died since the last step.
        """
        overdue, problem = self._watch.end(handle)
        self.manager.lost(handle, overdue=overdue)
        place = self.handles.index(handle)
        how = problem or how
        self.num_restarts += 1
        self._restarts_since_step += 1
        for name in overdue:
            self._failures.count(EndReason.DEADLINE, f"{name}: {how}")
        if self._restarts_since_step > self.config.max_controller_restarts:
            del self.handles[place]
            raise LongcatDoraError(
                f"controller {place} died ({how}), and max_controller_restarts="
                f"{self.config.max_controller_restarts} since the last step are used up"
            )
        self.handles[place] = self._start(place)
        self.manager.controllers = list(self.handles)
