"""Raise the noise when the policy is robust at the present stage, and lower it when it is not.

Robustness is the gap between clean and noisy pass rates on the same tasks (report 3.3.3; it gives
no thresholds). Each pair of a clean and a noisy episode is one difference; two tests watch them:

- up: is the gap below `fall_gap`? Passed in at most a share `max_false_climbs` of all runs, for
  ever, if the gap is at least that. The first stay at a stage spends 9/10 of it, the n-th
  1 / (10 n (n - 1)).
- down: is the gap above `max_gap`? Passed in at most a share `max_false_falls` of the stays at a
  stage if it is not.

Between the two, `max_gap` and `fall_gap`, lies the hysteresis: neither test passes easily.
`_evidence.py` states how a test spends its share over looks and trials.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._evidence import LOOKS, Trials
from ._noise import TOOL_KINDS, USER_KINDS

MAX_WAITING = 256
"""Outcomes that wait for their other half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumConfig:
    """When to climb, and what joins."""

    levels: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5)
    max_gap: float = 0.15
    """The limit: clean minus noisy pass rate that a robust policy stays below."""
    min_pass_rate: float = 0.3
    """Do not climb while even the clean pass rate is below this."""
    window: int = 64
    """Episodes by which the pass rates are shown and `min_pass_rate` is judged."""
    min_episodes: int = 32
    """Clean episodes before anything is judged."""
    max_false_climbs: float = 0.05
    """Share of runs that climb though the gap is at least `fall_gap`."""
    max_false_falls: float = 0.05
    """Share of stays that end in a fall though the gap is at most `max_gap`."""
    trial_pairs: int = 250
    """Pairs of one trial, which is looked at five times; a multiple of 5."""
    kinds: tuple[tuple[str, ...], ...] = ()
    """Kinds of noise that join step by step; empty if all are on from the start."""

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels must rise, got {self.levels}")
        if not 0 <= self.levels[0] <= self.levels[-1] <= 1:
            raise ValueError(f"levels must be in [0, 1], got {self.levels}")
        self._check_counts()
        if not 0 < self.max_gap < 0.75:
            raise ValueError(f"max_gap must be in (0, 0.75), got {self.max_gap}")
        for name in ("max_false_climbs", "max_false_falls"):
            if not 0 < getattr(self, name) <= 0.05:
                raise ValueError(f"{name} must be in (0, 0.05], got {getattr(self, name)}")
        if not 0 <= self.min_pass_rate <= 1:
            raise ValueError(f"min_pass_rate must be in [0, 1], got {self.min_pass_rate}")
        named = [kind for step in self.kinds for kind in step]
        for kind in named:
            if kind not in (*TOOL_KINDS, *USER_KINDS) or named.count(kind) > 1:
                raise ValueError(f"kinds must be known and join once, got {kind!r}")

    def _check_counts(self) -> None:
        for name in ("min_episodes", "window", "trial_pairs"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if not 1 <= self.min_episodes <= self.window:
            raise ValueError(
                f"need 1 <= min_episodes <= window, got {self.min_episodes} and {self.window}"
            )
        if self.trial_pairs < LOOKS or self.trial_pairs % LOOKS:
            raise ValueError(f"trial_pairs must be a multiple of {LOOKS}, got {self.trial_pairs}")

    @property
    def fall_gap(self) -> float:
        """The gap that must not climb: a third above the limit."""
        return self.max_gap * 4 / 3

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Index of the level and number of joined steps of kinds, stage by stage, in turns."""
        level, joined = 0, min(1, len(self.kinds))
        path = [(level, joined)]
        while level + 1 < len(self.levels) or joined < len(self.kinds):
            can_rise, can_join = level + 1 < len(self.levels), joined < len(self.kinds)
            if can_rise and (not can_join or level <= joined):
                level += 1
            else:
                joined += 1
            path.append((level, joined))
        return tuple(path)


class NoiseCurriculum:
    """Holds the present stage and moves it.

    Example:
        >>> curriculum = NoiseCurriculum(CurriculumConfig(window=2, min_episodes=2))
        >>> for _ in range(2):
        ...     curriculum.record(0.0, passed=True)
        >>> curriculum.level
        0.1
    """

    def __init__(self, config: CurriculumConfig | None = None) -> None:
        self.config = config or CurriculumConfig()
        self._stages = self.config.stages
        self._place = 0
        self._stays = [0] * len(self._stages)
        self._clean: deque[float] = deque(maxlen=self.config.window)
        self._noisy: deque[float] = deque(maxlen=self.config.window)
        self._waiting: dict[str, deque[tuple[str, float]]] = {}
        self._enter(0)

    @property
    def level(self) -> float:
        """The present level."""
        return self.config.levels[self._stages[self._place][0]]

    @property
    def stage(self) -> int:
        """Index of the present stage, a level and a set of kinds."""
        return self._place

    @property
    def tool_kinds(self) -> tuple[str, ...]:
        """Tool kinds that have joined."""
        return tuple(kind for kind in self._joined() if kind in TOOL_KINDS)

    @property
    def user_kinds(self) -> tuple[str, ...]:
        """User kinds that have joined."""
        return tuple(kind for kind in self._joined() if kind in USER_KINDS)

    def _joined(self) -> list[str]:
        if not self.config.kinds:
            return [*TOOL_KINDS, *USER_KINDS]
        return [kind for step in self.config.kinds[: self._stages[self._place][1]] for kind in step]

    @property
    def gap(self) -> float | None:
        """Clean minus noisy pass rate of late; `None` while too few were seen."""
        enough = self.config.min_episodes
        if len(self._clean) < enough:
            return None
        if self.level == 0:
            return 0.0
        if len(self._noisy) < enough:
            return None
        return _rate(self._clean) - _rate(self._noisy)

    @property
    def num_pairs(self) -> int:
        """Pairs seen at this stage."""
        return self._up.num_in_all

    def record(self, level: float, *, passed: bool | float, key: str = "") -> None:
        """Take note of an episode, or of the pass rate of a group of them on one task.

        Attempts at one task are not independent of one another: give a group's pass rate as one
        outcome, not each attempt.

        Args:
            level: 0 is clean; other levels than the present are old and left out.
            passed: The outcome, in [0, 1].
            key: The task; clean and noisy outcomes of one task make a pair. Without it they are
                paired in the order in which they come.
        """
        value = float(passed)
        if not 0 <= value <= 1:
            raise ValueError(f"passed must be in [0, 1], got {passed}")
        if level == 0:
            self._clean.append(value)
        elif level == self.level:
            self._noisy.append(value)
        else:
            return
        if self.level > 0:
            self._match("clean" if level == 0 else "noisy", value, key)
        self._move()

    def _match(self, side: str, value: float, key: str) -> None:
        """Pair an outcome with one of the other side that waits, or let it wait."""
        waiting = self._waiting.setdefault(key, deque(maxlen=self.config.window))
        if not waiting or waiting[0][0] == side:
            waiting.append((side, value))
            if sum(map(len, self._waiting.values())) > MAX_WAITING:
                oldest = next(iter(self._waiting))
                self._waiting[oldest].popleft()
                self._forget(oldest)
            return
        _, other = waiting.popleft()
        self._forget(key)
        difference = other - value if side == "noisy" else value - other
        self._up.see(difference)
        self._down.see(-difference)

    def _forget(self, key: str) -> None:
        if not self._waiting[key]:
            del self._waiting[key]

    def _move(self) -> None:
        config = self.config
        if len(self._clean) < config.min_episodes:
            return
        if self.level > 0 and self._down.has_passed:
            if self._place > 0:
                self._enter(self._place - 1)
            return
        is_robust = self.level == 0 or self._up.has_passed
        is_able = _rate(self._clean) >= config.min_pass_rate
        if self._place + 1 < len(self._stages) and is_robust and is_able:
            self._enter(self._place + 1)

    def _enter(self, place: int) -> None:
        """Begin a stay at a stage: both tests begin anew."""
        config = self.config
        self._place = place
        self._stays[place] += 1
        self._noisy.clear()
        self._waiting.clear()
        stay = self._stays[place]
        share = 0.9 if stay == 1 else 0.1 / (stay * (stay - 1))
        self._up = Trials(config.fall_gap, config.max_false_climbs * share, config.trial_pairs)
        self._down = Trials(-config.max_gap, config.max_false_falls, config.trial_pairs)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, JSON-able."""
        return {
            "place": self._place,
            "clean": list(self._clean),
            "noisy": list(self._noisy),
            "stays": list(self._stays),
            "waiting": {key: list(map(list, queue)) for key, queue in self._waiting.items()},
            "up": self._up.state(),
            "down": self._down.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state; one of the first form, without tests, begins a stay."""
        self._enter(min(max(int(state["place"]), 0), len(self._stages) - 1))
        self._clean.clear()
        self._clean.extend(map(float, state["clean"]))
        self._noisy.extend(map(float, state["noisy"]))
        if "up" not in state:
            return
        stays = [int(num) for num in state["stays"]]
        self._stays = (stays + [0] * len(self._stages))[: len(self._stages)]
        self._up.read(state["up"])
        self._down.read(state["down"])
        for key, queue in state["waiting"].items():
            waiting = ((str(side), float(value)) for side, value in queue)
            self._waiting[key] = deque(waiting, maxlen=self.config.window)


def _rate(passed: deque[float]) -> float:
    return sum(passed) / len(passed)
