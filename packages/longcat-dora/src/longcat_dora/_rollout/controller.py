"""A rollout controller: a virtual rollout group of an engine, environments, and some trajectories.

Takes: orders. Gives: reports; what is finished is delivered first. Stops when: told to, or the
    manager is gone.
From the moment a rollout is ordered, whatever goes wrong with it is a report, never a crash of the
controller.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from longcat_dora._log.tensors import CopiedWeights
from longcat_dora._types import EndReason, Invalid, Mask, Outcome, Trajectory, Worker

from .fork import end_copy
from .messages import (
    AbortRollout,
    Broken,
    Loaded,
    Loading,
    LoadWeights,
    MoveRollout,
    Noted,
    Order,
    Report,
    RetireVersion,
    RolloutFailed,
    StartRollout,
    Stop,
)
from .session import Session

Factory = Callable[[], Worker]
_MOST_CLOSE_S = 2.0
"""Until rollouts that were cancelled must have ended."""


class RolloutController:
    """Obeys a manager's orders; where it runs, and how messages reach it, is the runtime's affair.

    Args:
        worker: The engine and the rollout function.
        deadline_s: Of one rollout.
        deliver: Takes a finished trajectory, and how often its history was edited, to where the
            manager finds it. What it raises is the rollout's failure.
        tell: Takes a report to the manager.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        deadline_s: float,
        deliver: Callable[[Trajectory, int], None],
        tell: Callable[[Report], None],
    ) -> None:
        self.worker, self.deadline_s, self.deliver, self.tell = worker, deadline_s, deliver, tell
        self.stopped = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._aborted: set[str] = set()
        """Rollouts that were cancelled from here: nobody waits for a report."""
        self._sessions: dict[str, Session] = {}
        self._num_sessions: Counter[int] = Counter()
        """By version."""
        self._retiring: set[int] = set()
        self._has_noted_splits = False
        self._unbegun: set[str] = set()
        """Rollouts that have not taken their first step."""
        self._home = os.getpid()

    def obey(self, order: Order) -> None:
        """Carry out an order; if that fails, the run ends and says why."""
        try:
            self._obey(order)
        except Exception:
            what = f"could not obey {type(order).__name__}"
            if isinstance(order, LoadWeights):
                what = f"engine.load_weights could not take version {order.version}"
            self.tell(Broken(f"{what}:\n{traceback.format_exc()}"))

    def _obey(self, order: Order) -> None:
        match order:
            case StartRollout():
                self._start(order)
            case AbortRollout(trajectory):
                if trajectory in self._tasks:
                    self._aborted.add(trajectory)
                    self._tasks[trajectory].cancel()
            case MoveRollout(trajectory, version):
                self._move(trajectory, version)
            case LoadWeights(version, weights):
                self.tell(Loading(version))
                if isinstance(weights, CopiedWeights):
                    weights = weights.arrays()
                self.worker.engine.load_weights(version, weights)
                self.tell(Loaded(version))
            case RetireVersion(version):
                self._retiring.add(version)
                self._retire()
            case Stop():
                self.stopped.set()

    async def close(self) -> None:
        """Cancel what is running, and stop the engine, if it can be."""
        self._aborted |= set(self._tasks)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:  # those that do not hear are left to the end of the process
            await asyncio.wait(tasks, timeout=_MOST_CLOSE_S)
        if (stop := getattr(self.worker.engine, "stop", None)) is not None:
            await stop()

    # -- rollouts ----------------------------------------------------------------------------

    def _start(self, order: StartRollout) -> None:
        session = Session(self.worker, order.version, seed=order.seed)
        self._sessions[order.trajectory] = session
        # Counted now, not when the rollout first runs: the next order may be to retire its version.
        self._num_sessions[order.version] += 1
        self._unbegun.add(order.trajectory)
        running = asyncio.get_running_loop().create_task(self._rollout(order, session))
        self._tasks[order.trajectory] = running
        running.add_done_callback(lambda _: self._forget(order.trajectory))

    def _forget(self, trajectory: str) -> None:
        if trajectory in self._unbegun:  # a world cancelled all tasks that it found
            self._unbegun.discard(trajectory)
            if trajectory not in self._aborted:
                told = "it was cancelled before it began"
                self.tell(RolloutFailed(trajectory, EndReason.FAILED, told))
        del self._tasks[trajectory]
        self._aborted.discard(trajectory)
        self._num_sessions[self._sessions.pop(trajectory).version] -= 1
        self._retire()

    async def _rollout(self, order: StartRollout, session: Session) -> None:
        """Take a rollout to its one end: delivered, or reported."""
        self._unbegun.discard(order.trajectory)
        began = time.monotonic()
        reason, detail, outcome = await self._play(order, session)
        end_copy(self._home)
        try:
            await session.close()
            if reason is None and session.problem is not None:
                raise ValueError(session.problem)
            if reason is None:
                reward, info = _parse(outcome)
                trajectory = Trajectory(
                    order.trajectory, order.group, order.task, order.domain, session.first_version,
                    session.segments, reward, info, time.monotonic() - began,
                )  # fmt: skip
                self._note_splits(session)
                self.deliver(trajectory, session.num_splits)
        except BaseException:  # whatever it is, it is this rollout's end
            if self._is_thrown_away(order.trajectory):
                raise
            reason = reason or EndReason.FAILED
            detail = f"{detail}\n{_traceback()}".strip()
        if reason is not None and order.trajectory not in self._aborted:
            self.tell(RolloutFailed(order.trajectory, reason, detail))

    async def _play(
        self, order: StartRollout, session: Session
    ) -> tuple[EndReason | None, str, Outcome | None]:
        """Run the world.

        Return why it gave no outcome and what is to be said of that, or the outcome.
        """
        limit = asyncio.timeout(self.deadline_s)
        try:
            async with limit:
                awaitable = self.worker.rollout(order.payload, session)
                if not inspect.isawaitable(awaitable):
                    self._refuse_plain(awaitable)
                    return EndReason.FAILED, "rollout is no async function", None
                outcome = await awaitable
        except Mask as mask:
            return EndReason.MASKED, _said(mask), None
        except Invalid as invalid:
            return EndReason.INVALID, _reason_of(invalid), None
        # An agent may raise SystemExit, or let a cancellation of its own out: neither is ours.
        except BaseException:
            if not limit.expired():
                return EndReason.FAILED, _traceback(), None
            outcome = None
        if limit.expired():
            detail = f"the rollout of task {order.task!r} took more than {self.deadline_s:g} s"
            return EndReason.DEADLINE, detail, None
        if isinstance(outcome, Invalid):
            return EndReason.INVALID, _reason_of(outcome), None
        return None, "", outcome

    def _is_thrown_away(self, trajectory: str) -> bool:
        """Whether a rollout is closed from outside, as its process ends, and must not go on."""
        try:
            return asyncio.current_task() is not self._tasks.get(trajectory)
        except RuntimeError:  # no loop runs any more
            return True

    def _refuse_plain(self, returned: Any) -> None:
        name = getattr(self.worker.rollout, "__name__", "rollout")
        self.tell(Broken(
            f"a rollout must be `async def {name}(task, policy)`: {name} is no async function, it"
            " returned "
            f"{type(returned).__name__}"
        ))  # fmt: skip

    def _note_splits(self, session: Session) -> None:
        if session.num_splits and not self._has_noted_splits:
            self._has_noted_splits = True
            self.tell(Noted(
                "an agent sends back what the policy said in other words (stripped, say): each time"
                " another"
                " segment begins, and what was said is sampled and trained on anew. Send answers"
                " back as they came"
            ))  # fmt: skip

    def _move(self, trajectory: str, version: int) -> None:
        session = self._sessions.get(trajectory)
        if session is not None:
            self._num_sessions[session.version] -= 1
            self._num_sessions[version] += 1
            session.move(version)
            self._retire()

    def _retire(self) -> None:
        """Free versions that nobody here will speak on any more."""
        for version in [v for v in self._retiring if not self._num_sessions[v]]:
            self._retiring.discard(version)
            self.worker.engine.retire(version)


def _reason_of(invalid: Invalid) -> str:
    return _said(getattr(invalid, "reason", invalid))  # a subclass may have made none


def _said(value: object) -> str:
    """What somebody else's object says of itself, if it can."""
    try:
        return str(value)
    except Exception as error:
        return f"{type(value).__name__}, which cannot be shown: {type(error).__name__}"


def _traceback() -> str:
    """The end of the current error's traceback, which says most."""
    return traceback.format_exc(limit=-3)


def _parse(outcome: Any) -> tuple[float, dict[str, Any]]:
    """Read what a world returned.

    Raises:
        ValueError: It is no reward, or its information cannot be kept.
    """
    parts = cast("tuple[Any, ...]", outcome if isinstance(outcome, tuple) else (outcome, {}))
    reward = parts[0] if len(parts) == 2 and isinstance(parts[1], dict) else None
    if reward is None or isinstance(reward, (str, bytes)):
        raise ValueError(
            f"a rollout must return a reward, (reward, dict), or Invalid(reason), got {outcome!r}"
        )
    try:
        value = float(reward)
    except TypeError as error:
        raise ValueError(f"a reward must be a number, got {reward!r}") from error
    if not math.isfinite(value):
        raise ValueError(f"a reward must be finite, got {value}")
    return value, cast("dict[str, Any]", parts[1])
