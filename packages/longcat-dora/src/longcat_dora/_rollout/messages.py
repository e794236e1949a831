"""The vocabulary between manager and controllers.

Every order and every report, typed, with a format number.

Both ends import it from here; a controller says in `Ready` which format it speaks. An order or
report is a named tuple: it is pickled as small as a tuple, and read by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from longcat_dora._types import EndReason, Finished, Payload

FORMAT = 2
"""Of orders and reports."""


class StartRollout(NamedTuple):
    """Sample one trajectory."""

    trajectory: str
    group: str
    task: str
    domain: str
    version: int
    payload: Any
    """The task's: what the rollout function receives."""
    seed: int


class AbortRollout(NamedTuple):
    """Stop sampling; nothing is to be told of it."""

    trajectory: str


class MoveRollout(NamedTuple):
    """Go on under another version."""

    trajectory: str
    version: int


class LoadWeights(NamedTuple):
    """Make a version available."""

    version: int
    weights: Any
    """As the runtime shares them."""


class RetireVersion(NamedTuple):
    """No rollout will be started on a version any more."""

    version: int


class Stop(NamedTuple):
    """End."""


Order = StartRollout | AbortRollout | MoveRollout | LoadWeights | RetireVersion | Stop


class Ready(NamedTuple):
    """The worker is built."""

    format: int = FORMAT
    node: str = ""
    """Where, if the runtime has several."""


class Loading(NamedTuple):
    """The engine begins to take a version; it may hear nothing until it has."""

    version: int


class Loaded(NamedTuple):
    """The engine has taken a version."""

    version: int


class RolloutFinished(NamedTuple):
    """A trajectory is complete, and its bytes are written."""

    finished: Finished
    payload: Any
    """A `Payload`, or how the runtime gets to the bytes."""


class RolloutFailed(NamedTuple):
    """A trajectory ended without a result."""

    trajectory: str
    reason: EndReason
    detail: str


class Released(NamedTuple):
    """A version's shared memory is read no more."""

    version: int


class Noted(NamedTuple):
    """Something that a person should hear of, once."""

    text: str


class Broken(NamedTuple):
    """The controller cannot go on, and another one could not either: the run ends."""

    problem: str


class Stopped(NamedTuple):
    """It has ended, as it was told."""


Report = (
    Ready | Loading | Loaded | RolloutFinished | RolloutFailed | Released | Noted | Broken | Stopped
)  # fmt: skip


class Controller(Protocol):
    """A controller as manager and runtime see it, wherever it runs."""

    running: set[str]
    """Trajectories that it is sampling."""
    is_ready: bool

    def post(self, order: Order) -> None:
        """Send an order after all earlier ones; never blocks."""
        ...

    def kill(self) -> None:
        """End it now, whatever it is doing; it is then lost."""
        ...


__all__ = [
    "FORMAT", "AbortRollout", "Broken", "Controller", "Finished", "LoadWeights", "Loaded",
    "Loading", "MoveRollout", "Noted", "Order", "Payload", "Ready", "Released", "Report",
    "RetireVersion", "RolloutFailed", "RolloutFinished", "StartRollout", "Stop", "Stopped",
]  # fmt: skip
