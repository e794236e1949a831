"""What happens while a run thinks, as it happens.

An `on_event` is called from the event loop, in order. What it raises ends the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._replies import Failure, Reply


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage of the schedule begins."""

    stage: int
    name: str
    width: int
    """Calls it may make at once; 0 where it makes none."""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call was let through the budget and goes out."""

    stage: int
    index: int


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a streamed reply."""

    stage: int
    index: int
    text: str = ""
    thoughts: str = ""
    is_final: bool = False
    """Whether the call is the one whose answer will be the run's."""


@dataclass(frozen=True, slots=True)
class CallRetried:
    """A try failed; another follows after a pause."""

    stage: int
    index: int
    failure: Failure
    pause_s: float


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A reply is there, good or not."""

    stage: int
    index: int
    reply: Reply
    is_recorded: bool = False
    """Whether it came from the journal and nothing was sent."""


@dataclass(frozen=True, slots=True)
class StageDecided:
    """The outcome of a stage is certain; calls still under way are cancelled."""

    stage: int
    reason: str
    num_cancelled: int


@dataclass(frozen=True, slots=True)
class FellBack:
    """A stage could not be had; the run goes on with the best of what there is."""

    stage: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The answer is there."""

    reply: Reply
    decided_by: str


Event = (
    StageStarted
    | CallStarted
    | CallDelta
    | CallRetried
    | CallFinished
    | StageDecided
    | FellBack
    | RunFinished
)
OnEvent = Callable[[Event], None]
