"""A curriculum on two axes: how hard a task is, and which capabilities it asks for.

- At first: what is easy, or what asks for a single capability that harder tasks will ask for again.
- Later: what is harder, and asks for several at once.

`ContextGrowth` lengthens the context when answers come near its end.

Source: LongCat-Flash-Thinking-2601 report 3.3.1 (the two axes, and what comes early and late); the
2509 report 3.4.1 (context 48K, 56K, 64K, grown when the 90th percentile of lengths nears the
limit). The schedule's numbers are ours: neither report prints them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ._numbers import keep, number, plain, whole


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What is known of a task before it is trained on."""

    id: str
    pass_rate: float
    """Measured before optimisation."""
    tags: frozenset[str] = frozenset()
    """Capabilities: `tool-call`, `planning`, ..."""

    def __post_init__(self) -> None:
        rate = number(f"pass_rate of {self.id!r}", self.pass_rate)
        if not 0 <= rate <= 1:
            raise ValueError(f"pass_rate of {self.id!r} must be in [0, 1], got {rate}")
        keep(self, pass_rate=rate)


class StagedCurriculum:
    """Opens tasks as training goes on.

    At progress t in [0, 1] a task is open when its pass rate is at least `(1 - t) * easy` and it
    asks for at most `1 + t * (most tags of any task - 1)` capabilities; or when it asks for one
    capability that a `reuse` share of the tasks not open yet ask for.
    """

    def __init__(
        self, tasks: Sequence[TaskFacts], *, seed: int, easy: float = 0.5, reuse: float = 0.2
    ) -> None:
        easy, reuse = number("easy", easy), number("reuse", reuse)
        if not tasks or not 0 < easy <= 1 or not 0 < reuse <= 1:
            raise ValueError(
                "need at least one task, easy in (0, 1] and reuse in (0, 1], got "
                f"{len(tasks)}, {easy} and {reuse}"
            )
        self._tasks = {task.id: task for task in tasks}
        self._easy, self._reuse, self._rng = easy, reuse, Random(plain(seed))
        self._most_tags = max(len(task.tags) for task in tasks)
        self._progress = 0.0

    def advance(self, progress: float) -> None:
        """Say how much of training is done, 0 to 1."""
        progress = number("progress", progress)
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1], got {progress}")
        self._progress = progress

    def open_tasks(self) -> list[str]:
        """Return the ids that may be drawn now."""
        return [task.id for task in self._tasks.values() if self._why(task)]

    def draw(self) -> str:
        """Return one of the open tasks; of all, where none is open."""
        return self._rng.choice(self.open_tasks() or list(self._tasks))

    def explain(self, task_id: str) -> str:
        """Say why a task is open, or what it waits for."""
        task = self._tasks[task_id]
        why = self._why(task)
        if why:
            return f"open: {why}"
        return (
            f"closed at progress {self._progress:.2f}: pass rate {task.pass_rate:.2f} (needs "
            f"{self._least_rate:.2f}), {len(task.tags)} capabilities (at most {self._max_tags})"
        )

    @property
    def _least_rate(self) -> float:
        return (1 - self._progress) * self._easy

    @property
    def _max_tags(self) -> int:
        return 1 + math.floor(self._progress * max(0, self._most_tags - 1))

    def _fits(self, task: TaskFacts) -> bool:
        return task.pass_rate >= self._least_rate and len(task.tags) <= self._max_tags

    def _why(self, task: TaskFacts) -> str:
        if self._fits(task):
            return f"pass rate {task.pass_rate:.2f}, {len(task.tags)} capabilities"
        if len(task.tags) == 1 and task.pass_rate > 0:
            (tag,) = task.tags
            later = [other for other in self._tasks.values() if not self._fits(other)]
            share = Counter(tag for other in later for tag in other.tags)[tag] / len(later)
            if share >= self._reuse:
                return f"{share:.0%} of the tasks to come ask for {tag}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores."""
        return {"progress": self._progress, "rng": self._rng.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state, from JSON too."""
        self._progress = state["progress"]
        version, internal, gauss = state["rng"]
        self._rng.setstate((version, tuple(internal), gauss))


class ContextGrowth:
    """Lengthens the context step by step, when answers come near its end."""

    def __init__(
        self,
        limits: Sequence[int] = (49_152, 57_344, 65_536),
        *,
        quantile: float = 0.9,
        near: float = 0.9,
    ) -> None:
        held = [whole("a limit", limit) for limit in limits]
        quantile, near = number("quantile", quantile), number("near", near)
        if not held or held != sorted(held) or not 0 < quantile < 1 or not 0 < near <= 1:
            raise ValueError(
                "need rising limits, quantile in (0, 1) and near in (0, 1], got "
                f"{held}, {quantile} and {near}"
            )
        self._limits, self._quantile, self._near = held, quantile, near
        self._stage = 0

    @property
    def limit(self) -> int:
        """Tokens an answer may have now."""
        return self._limits[self._stage]

    def observe(self, lengths: Sequence[int]) -> bool:
        """Take note of a batch's lengths; return whether the limit grew."""
        if len(lengths) == 0:
            return False
        ordered = sorted(lengths)
        at = ordered[min(len(ordered) - 1, math.ceil(self._quantile * len(ordered)) - 1)]
        if at < self._near * self.limit or self._stage + 1 == len(self._limits):
            return False
        self._stage += 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores."""
        return {"stage": self._stage}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state."""
        self._stage = state["stage"]
