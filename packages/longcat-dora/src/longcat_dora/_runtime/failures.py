"""When a run must end because it comes to nothing: only failures, or nothing to learn from."""

from __future__ import annotations

from collections import Counter

from longcat_dora._books.manager import RolloutManager
from longcat_dora._types import EndReason, LongcatDoraError

from .config import RunConfig

_COUNTED = (EndReason.FAILED, EndReason.DEADLINE, EndReason.INVALID)
_MANY_BATCHES = 4
"""Of groups without a signal, which are worth a word when a run ends."""


class Failures:
    """Rollouts that ended without a result, with none between them that had one."""

    def __init__(self, config: RunConfig) -> None:
        self._most = config.max_failures_in_a_row
        self._by_reason: Counter[str] = Counter()

    def clear(self) -> None:
        """A rollout had a result."""
        self._by_reason.clear()

    def count(self, reason: str, detail: str) -> None:
        """Count an end.

        Raises:
            LongcatDoraError: There are too many in a row.
        """
        if reason not in _COUNTED:
            return
        self._by_reason[str(reason)] += 1
        num = self._by_reason.total()
        if num < self._most:
            return
        by_reason = ", ".join(f"{reason} {n}" for reason, n in self._by_reason.most_common())
        what = f"ended without a result ({by_reason})"
        if len(self._by_reason) == 1 and reason == EndReason.FAILED:
            what = "raised"
        raise LongcatDoraError(
            f"{num} rollouts in a row {what}, max_failures_in_a_row={self._most}; the last one:\n"
            f"{detail}"
        )


def refuse_no_signal(manager: RolloutManager, config: RunConfig) -> None:
    """See whether there is something to learn.

    Raises:
        LongcatDoraError: Too many groups in a row had nothing to learn from.
    """
    if manager.num_without_signal >= config.max_groups_without_signal:
        raise LongcatDoraError(
            f"no group of the last {manager.num_without_signal} had anything to learn from: all"
            " rewards of each were equal. Tasks may be too easy or too hard, or the reward is"
            f" constant; max_groups_without_signal={config.max_groups_without_signal}"
        )


def notice_no_signal(manager: RolloutManager, config: RunConfig, *, took_none: bool) -> None:
    """Say at a run's end that much of it, or all, had nothing to learn from."""
    many = _MANY_BATCHES * config.scheduler.groups_per_batch
    if (took_none and manager.num_filtered) or manager.num_without_signal >= many:
        manager.notice(
            f"the last {manager.num_without_signal} groups had nothing to learn from: all rewards"
            " of each were equal"
        )
