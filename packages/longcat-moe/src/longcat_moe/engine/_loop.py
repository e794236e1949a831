"""The step loop: who computes next, and what becomes of what was computed.

    plan ──> attempt ──> commit ──> plan ...
      │ nothing to do: sleep until `wake`

- A step is of one version; versions take turns.
- What a step raises fails those who made it raise, and the loop goes on. When the loop itself ends,
  `failure` says why, and all who wait are told.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections.abc import Callable, Mapping

from ._attempt import Attempt, attempt
from ._handover import Handover
from ._models import Versions
from ._request import Conversation, EngineDeadError
from ._scheduler import Scheduler, Work
from ._turns import Turns


class StepLoop:
    """Computes for all conversations until nobody asks.

    Args:
        conversations: Those that are open.
        scheduler: Says who computes, and has the blocks.
        versions: Compute.
        turns: Take what was sampled.
        handover: Knows what comes from the prefill process.
        threaded: Compute in a thread, so that the event loop goes on meanwhile.
        on_death: Called when the loop ends, with what others are to be told.
    """

    def __init__(
        self,
        conversations: Mapping[int, Conversation],
        *,
        scheduler: Scheduler,
        versions: Versions,
        turns: Turns,
        handover: Handover,
        threaded: bool,
        on_death: Callable[[EngineDeadError], None],
    ) -> None:
        self.failure: BaseException | None = None
        """Why nothing can be computed any more, if so."""
        self.on_cached: Callable[[int, Conversation], None] | None = None
        """Called after each step with a conversation that computed something."""
        self._conversations, self._threaded, self._on_death = conversations, threaded, on_death
        self._scheduler, self._versions = scheduler, versions
        self._turns, self._handover = turns, handover
        self._steps = itertools.count()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "longcat-engine")
        """Begun when it is first used."""

    def check_alive(self) -> None:
        """Check that something can be computed.

        Raises:
            EngineDeadError: The loop has ended.
        """
        if self.failure is not None:
            raise EngineDeadError(f"the engine has ended: {self.failure!r}")

    def wake(self) -> None:
        """Look for work; begin the loop where the event loop that runs has none."""
        if self._task is None or self._task.done():
            self._work = (
                asyncio.Event()
            )  # of the event loop that runs now; an engine may outlive one
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._handover.listen(self._work.set)
        self._work.set()

    def step(self) -> bool:
        """Compute one batch of one version; return whether there was any work."""
        batch = self._plan()
        if batch is None:
            return False
        self._commit(self._attempt(batch))
        return True

    def end(self, c: Conversation, reason: str) -> None:
        """End a request with what it has, if there is one."""
        if c.request is not None:
            self._handover.stop(c)
            self._turns.finish(c, c.request, reason)

    def give_up(self, c: Conversation) -> None:
        """End a request that nobody waits for any more."""
        self._handover.stop(c)
        self._turns.give_up(c)

    async def _run(self) -> None:
        """Takes: requests. Gives: tokens. Stops: never, sleeps while there is no work."""
        try:
            while True:
                while (batch := self._plan()) is not None:
                    if self._threaded:
                        self._commit(await self._in_thread(batch))
                    else:
                        self._commit(self._attempt(batch))
                        await asyncio.sleep(0)
                self._work.clear()
                await self._work.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._die(error)
            if not isinstance(error, Exception):
                raise

    async def _in_thread(self, batch: list[Work]) -> Attempt:
        step = self._thread.submit(self._attempt, batch)
        try:
            return await asyncio.wrap_future(step)
        except asyncio.CancelledError:  # the event loop ends: the step must not write on
            concurrent.futures.wait([step])
            for work in batch:
                self._leave(work.conversation)
            raise

    def _plan(self) -> list[Work] | None:
        """Choose a version and its batch; nothing when nobody asks."""
        try:
            return self._choose()
        except Exception as error:  # whoever brought it in is not known
            for c in list(self._conversations.values()):
                c.is_computing = False
                if c.request is not None:
                    self._fail(c, error)
            return None

    def _choose(self) -> list[Work] | None:
        for c in self._turns.late(self._conversations.values()):
            self.end(c, "timeout")
        everyone = self._conversations.values()
        self._scheduler.look_at(everyone)
        active = [c for c in everyone if c.request is not None and self._handover.is_done(c)]
        if not active:
            return None
        versions = sorted({c.version for c in active})
        version = versions[next(self._steps) % len(versions)]
        mine = [c for c in active if c.version == version]
        self._scheduler.stats.num_steps += 1
        return self._scheduler.plan(mine)

    def _attempt(self, batch: list[Work]) -> Attempt:
        return attempt(batch, self._versions.compute)

    def _commit(self, result: Attempt) -> None:
        for outcome in result.outcomes:
            c = outcome.work.conversation
            c.rng.keep()
            if not self._leave(c):
                continue
            try:
                self._turns.note(c, outcome)
                if self.on_cached is not None:
                    self.on_cached(c.identifier, c)
            except Exception as error:
                self._fail(c, error)
        for work, error in result.failures:
            if self._leave(work.conversation):
                self._fail(work.conversation, error)

    def _leave(self, c: Conversation) -> bool:
        """Note that a step is over; return whether the conversation is still open."""
        c.is_computing = False
        if c.is_closed:
            self._scheduler.drop(c)
        return not c.is_closed

    def _fail(self, c: Conversation, error: BaseException) -> None:
        self._turns.fail(c, error, self._versions.models.get(c.version))

    def _die(self, error: BaseException) -> None:
        """End all that wait; nothing can be computed any more."""
        self.failure = error
        dead = EngineDeadError(f"the engine has ended: {error!r}")
        self._on_death(dead)
        for c in list(self._conversations.values()):
            c.is_computing = False
            if c.request is not None:
                self._fail(c, dead)
