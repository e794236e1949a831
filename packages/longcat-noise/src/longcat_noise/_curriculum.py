"""Raise the noise when the policy is robust at the present level.

Robustness is the gap between clean and noisy pass rates (LongCat-Flash-Thinking-2601 report 3.3.3).
The report gives no thresholds; ours are the defaults.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumConfig:
    """When to climb."""

    levels: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5)
    max_gap: float = 0.15
    """Climb while clean minus noisy pass rate is at most this."""
    min_pass_rate: float = 0.3
    """Do not climb while even the clean pass rate is below this."""
    window: int = 64
    """Episodes of each kind that are looked at."""
    min_episodes: int = 32
    """Of each kind at a level, before it is judged."""

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(self.levels):
            raise ValueError(f"levels must rise, got {self.levels}")
        if not 0 <= self.levels[0] <= self.levels[-1] <= 1:
            raise ValueError(f"levels must be in [0, 1], got {self.levels}")
        if not 1 <= self.min_episodes <= self.window:
            raise ValueError(
                f"need 1 <= min_episodes <= window, got {self.min_episodes} and {self.window}"
            )


class NoiseCurriculum:
    """Holds the present level and moves it up.

    Example:
        >>> curriculum = NoiseCurriculum(CurriculumConfig(window=2, min_episodes=2))
        >>> for _ in range(2):
        ...     curriculum.record(0.0, passed=True)
        >>> curriculum.level
        0.1
    """

    def __init__(self, config: CurriculumConfig | None = None) -> None:
        self.config = config or CurriculumConfig()
        self._place = 0
        self._clean: deque[bool] = deque(maxlen=self.config.window)
        self._noisy: deque[bool] = deque(maxlen=self.config.window)

    @property
    def level(self) -> float:
        """The present level."""
        return self.config.levels[self._place]

    @property
    def gap(self) -> float | None:
        """Clean minus noisy pass rate; `None` while too few were seen."""
        enough = self.config.min_episodes
        if len(self._clean) < enough:
            return None
        if self.level == 0:
            return 0.0
        if len(self._noisy) < enough:
            return None
        return _rate(self._clean) - _rate(self._noisy)

    def record(self, level: float, *, passed: bool) -> None:
        """Take note of an episode at a level: 0 is clean; other levels than the present are old."""
        if level == 0:
            self._clean.append(passed)
        elif level == self.level:
            self._noisy.append(passed)
        gap = self.gap
        if gap is None or self._place + 1 >= len(self.config.levels):
            return
        if gap <= self.config.max_gap and _rate(self._clean) >= self.config.min_pass_rate:
            self._place += 1
            self._noisy.clear()

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, JSON-able."""
        return {"place": self._place, "clean": list(self._clean), "noisy": list(self._noisy)}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        self._place = min(int(state["place"]), len(self.config.levels) - 1)
        self._clean.extend(state["clean"])
        self._noisy.extend(state["noisy"])


def _rate(passed: deque[bool]) -> float:
    return sum(passed) / len(passed)
