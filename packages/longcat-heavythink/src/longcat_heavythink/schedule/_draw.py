"""Make the calls of one stage side by side, and stop as soon as the outcome is certain.

    plan --> book? --> budget --> model --> record --> enough? --> cancel the rest

Takes plans; gives one record for each, in the order of their index. Waits for the calls; woken by
the last of them, by the one that made the outcome certain, by the time, or by a crash of the
caller's own function. When it returns or raises, none of its calls is under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from longcat_heavythink._budget import Budget, Ledger
from longcat_heavythink._events import (
    CallDelta,
    CallFinished,
    CallRetried,
    CallStarted,
    OnEvent,
    StageDecided,
)
from longcat_heavythink._models import Model
from longcat_heavythink._replies import Delta, Failure, FailureKind, Reply, Usage

from ._records import Book, Plan, Record

Enough = Callable[[Record], str]
"""Called with each record as it comes; returns why no more are needed, or an empty string."""


class Drawer:
    """Draws replies for the stages of one run."""

    def __init__(
        self, *, budget: Budget | None, book: Book | None, on_event: OnEvent | None, stream: str
    ) -> None:
        self.ledger = Ledger(budget) if budget else None
        self._counts = budget is not None and budget.counts_tokens
        self._book = book
        self._on_event = on_event
        self._stream = stream
        self._queue: deque[asyncio.Future[None]] = deque()
        self.has_shown = False
        """Whether pieces of the final answer went to the caller's function."""

    def emit(self, event: CallStarted | CallFinished | StageDecided) -> None:
        """Tell the caller's function, if there is one."""
        if self._on_event is not None:
            self._on_event(event)

    async def draw(
        self,
        stage: int,
        model: Model,
        plans: Sequence[Plan],
        *,
        enough: Enough | None = None,
        on_record: Callable[[Record], None] | None = None,
        until_s: float | None = None,
        keep: Callable[[], Usage] | None = None,
    ) -> list[Record]:
        """Make the calls; return their records by index.

        Args:
            stage: Number of the stage.
            model: Who is asked.
            plans: The calls.
            enough: Says when the others are not needed.
            on_record: Called with each record that is not cancelled.
            until_s: Time of the loop after which calls under way are cancelled.
            keep: What later stages need of the budget.
        """
        loop = asyncio.get_running_loop()
        over: asyncio.Future[str] = loop.create_future()
        records: list[Record] = []
        num_plans = len(plans)

        async def one(plan: Plan) -> None:
            try:
                record = await self._one(stage, model, plan, over, keep)
                if over.done():
                    return
                records.append(record)
                if on_record is not None:
                    on_record(record)
                if enough is not None:
                    reason = enough(record)
                    if reason:
                        over.set_result(reason)
                        return
                if len(records) == num_plans:
                    over.set_result("")
            except asyncio.CancelledError:
                over.cancel()  # nothing where we cancelled it: `over` is done then
                raise
            except BaseException as error:
                _crash(over, error)

        alarm = loop.call_at(until_s, _ring, over) if until_s is not None else None
        tasks = [loop.create_task(one(plan)) for plan in plans]
        try:
            reason = await over
        finally:
            if alarm is not None:
                alarm.cancel()
            await _end(tasks)
        return self._complete(stage, plans, records, reason)

    async def _one(
        self, stage: int, model: Model, plan: Plan, over: asyncio.Future[str],
        keep: Callable[[], Usage] | None,
    ) -> Record:  # fmt: skip
        reply = self._book.find(stage, plan) if self._book is not None else None
        if reply is not None:
            return self._recorded(stage, plan, reply)
        if self._counts:
            refused = await self._set_aside(model, plan, keep if plan.index else None)
            if refused is not None:
                return self._finished(stage, plan, Reply(failure=refused), Usage(), 0.0)
        if self._on_event is not None:
            self._on_event(CallStarted(stage, plan.index))
            self._listen(stage, plan, over)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            reply = await model.reply(plan.call)
        except asyncio.CancelledError:
            if self._counts:  # what it has cost is not known: the most it could is counted
                self._settle(model, plan, self._most(model, plan))
            raise
        used = reply.usage or Usage(
            (plan.num_bytes + 3) // 4, (len(reply.text) + len(reply.thoughts) + 3) // 4, True
        )
        if self.ledger is not None:
            self._settle(model, plan, used)
        return self._finished(stage, plan, reply, used, clock() - began)

    def _finished(
        self, stage: int, plan: Plan, reply: Reply, used: Usage, total_s: float
    ) -> Record:
        record = Record(stage, plan.index, reply, used, total_s, plan.members)
        if self._book is not None:
            self._book.write(stage, plan, record)
        if self._on_event is not None:
            self._on_event(CallFinished(stage, plan.index, reply))
        return record

    def _recorded(self, stage: int, plan: Plan, reply: Reply) -> Record:
        used = reply.usage or Usage()
        if self._on_event is not None:
            self._on_event(CallFinished(stage, plan.index, reply, is_recorded=True))
        total_s = reply.timing.total_s if reply.timing else 0.0
        if self.ledger is not None:
            self.ledger.spent += used
        return Record(stage, plan.index, reply, used, total_s, plan.members)

    def _listen(self, stage: int, plan: Plan, over: asyncio.Future[str]) -> None:
        on_event = self._on_event
        assert on_event is not None

        def retried(failure: Failure, pause_s: float) -> None:
            _safely(over, on_event, CallRetried(stage, plan.index, failure, pause_s))

        def came(delta: Delta) -> None:
            self.has_shown = self.has_shown or (plan.is_final and bool(delta.text))
            event = CallDelta(stage, plan.index, delta.text, delta.thoughts, plan.is_final)
            _safely(over, on_event, event)

        plan.call.on_retry = retried
        if self._stream == "all" or (self._stream == "last" and plan.is_final):
            plan.call.on_delta = came

    def _most(self, model: Model, plan: Plan) -> Usage:
        assert self.ledger is not None
        limit = plan.call.max_tokens or getattr(model, "max_tokens", None)
        if limit is None:
            raise ValueError("a budget of tokens or money needs max_tokens, to know the most of a "
                             "call before it is sent")  # fmt: skip
        return self.ledger.estimate(plan.num_bytes, limit)

    async def _set_aside(
        self, model: Model, plan: Plan, keep: Callable[[], Usage] | None
    ) -> Failure | None:
        """Wait until the budget covers a call; say so where it never will."""
        assert self.ledger is not None
        while True:
            most = self._most(model, plan)
            if self.ledger.set_aside(most, keep() if keep else None):
                plan.aside = most
                return None
            if not self.ledger.has_aside:  # nothing under way that could give some back
                left = self.ledger.left_in_words()
                words = f"not sent: it may use {most.total_tokens} tokens, and {left}"
                return Failure(FailureKind.BUDGET, words)
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            await turn

    def _settle(self, model: Model, plan: Plan, used: Usage) -> None:
        assert self.ledger is not None
        self.ledger.settle(plan.aside or Usage(), used, plan.num_bytes)
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)

    def _complete(
        self, stage: int, plans: Sequence[Plan], records: list[Record], reason: str
    ) -> list[Record]:
        """Return the records by index, with those that were cancelled."""
        missing = len(plans) - len(records)
        if missing:
            here = {record.index for record in records}
            failure = Failure(FailureKind.CANCELLED, f"cancelled: {reason}")
            for plan in plans:
                if plan.index in here:
                    continue
                used = Usage((plan.num_bytes + 3) // 4, 0, estimated=True)
                record = Record(stage, plan.index, Reply(failure=failure), used, 0.0, plan.members)
                if self._book is not None:
                    self._book.write(stage, plan, record)
                records.append(record)
        if reason:
            self.emit(StageDecided(stage, reason, missing))
        if self._book is not None:
            self._book.end_stage(stage)
        return sorted(records, key=lambda record: record.index)


def _ring(over: asyncio.Future[str]) -> None:
    if not over.done():
        over.set_result("the time of this stage is over")


def _safely(over: asyncio.Future[str], on_event: OnEvent, event: CallDelta | CallRetried) -> None:
    """Tell the caller's function; what it raises ends the run, and is not the model's fault."""
    if over.done():
        return
    try:
        on_event(event)
    except BaseException as error:
        _crash(over, error)


def _crash(over: asyncio.Future[str], error: BaseException) -> None:
    if isinstance(error, StopIteration):  # a future cannot hold one
        error = RuntimeError(f"on_event or on_attempt raised {error!r}")
    if not over.done():
        over.set_exception(error)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel what is under way and wait for it, even while being cancelled again."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
