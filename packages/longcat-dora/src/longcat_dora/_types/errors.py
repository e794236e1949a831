"""What goes wrong, and why a trajectory was not trained on."""

from __future__ import annotations

from enum import StrEnum


class LongcatDoraError(Exception):
    """The run cannot go on; the message says who waited for what, or what was refused."""


class Mask(Exception):
    """Raise it in a rollout whose signal is incomplete.

    A grader that failed, an answer cut by length.

    The trajectory is not trained on and not tried again; an error, by contrast, is.
    """


class Invalid(Exception):
    """Return or raise it in a rollout whose world broke: its own fault, not the agent's.

    The trajectory ends as `invalid` with this reason, is tried again within the limits, and is
    never trained on.

    Example:
        async def world(task, policy):
            if not await database.is_up():
                return Invalid("the database is down")
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EndReason(StrEnum):
    """Why a trajectory was not trained on. Every one that is not committed has one of these."""

    FAILED = "failed"
    """The rollout raised, or returned what cannot be trained on; another attempt takes its
    place."""
    DEADLINE = "deadline"
    """The rollout took longer than its deadline; another attempt takes its place."""
    CONTROLLER_LOST = "controller_lost"
    """Its process died; another attempt takes its place."""
    INTERRUPTED = "interrupted"
    """The run was stopped while it was being sampled, or too few of its group were finished."""
    EXPIRED = "expired"
    """It would have been older than the hard bound, and `at_bound` is `discard`; it is sampled
    anew."""
    ROLLED_BACK = "rolled_back"
    """Its policy version was undone by a restore to an earlier checkpoint."""
    NO_SIGNAL = "no_signal"
    """All rewards of its group are equal: nothing to learn."""
    RUN_ENDED = "run_ended"
    """The run took its last step first."""
    MASKED = "masked"
    """Its rollout raised `Mask`: the signal is incomplete, and the group makes do without it."""
    INVALID = "invalid"
    """Its world said `Invalid`; another attempt takes its place."""
    DAMAGED = "damaged"
    """Its bytes, or its task's, are not what was written; it is sampled anew."""
    NOTHING_SAMPLED = "nothing_sampled"
    """The policy never spoke: there is no token to learn from."""
