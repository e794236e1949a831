"""Self-verification: when learning stagnates, let the model judge its own answers for a while.

- `Stagnation` says when: the mean reward has not risen for so many steps.
- `verification_items` says what to judge: as many right answers as wrong ones, hard tasks first.
- `verification_reward` couples the reward to the task's own pass rate, so that to judge well what
  one answers badly earns nothing: it is no shortcut.

Source: LongCat-Flash-Thinking-2601 report 3.3.1; how items are chosen and balanced as in the
companion's code (2602.07594). The trigger and the coupling are ours: the report gives no formula.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

from ._numbers import number, whole

Key = TypeVar("Key", bound=Hashable)


class Stagnation:
    """Tells when the mean reward has stopped rising."""

    def __init__(
        self, *, patience: int = 20, least_gain: float = 0.01, memory: float = 0.9
    ) -> None:
        patience, memory = whole("patience", patience), number("memory", memory)
        least_gain = number("least_gain", least_gain)
        if patience < 1 or not 0 <= least_gain < math.inf or not 0 <= memory < 1:
            raise ValueError(
                "need patience >= 1, least_gain >= 0 and memory in [0, 1), got "
                f"{patience}, {least_gain} and {memory}"
            )
        self.patience, self.least_gain, self.memory = patience, least_gain, memory
        self._average: float | None = None
        self._best, self._steps = float("-inf"), 0

    def observe(self, reward: float) -> bool:
        """Take note of a step's mean reward; return whether learning stagnates."""
        reward = number("a mean reward", reward)
        if not math.isfinite(reward):
            raise ValueError(f"a mean reward must be finite, got {reward}")
        old = reward if self._average is None else self._average
        self._average = self.memory * old + (1 - self.memory) * reward
        if self._average > self._best + self.least_gain:
            self._best, self._steps = self._average, 0
        else:
            self._steps += 1
        return self.stagnates

    @property
    def stagnates(self) -> bool:
        """Whether the average has not risen by `least_gain` for `patience` steps."""
        return self._steps >= self.patience

    def explain(self) -> str:
        """Say how long the reward has not risen."""
        average = 0.0 if self._average is None else self._average
        return (
            f"mean reward {average:.3f}, no gain of {self.least_gain:g} over {self._best:.3f} for "
            f"{self._steps} of {self.patience} steps"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores."""
        return {"average": self._average, "best": self._best, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state."""
        self._average, self._best, self._steps = state["average"], state["best"], state["steps"]


@dataclass(frozen=True, slots=True)
class VerificationItem(Generic[Key]):
    """One answer to judge."""

    place: int
    """Of the answer, among those given."""
    group: Key
    is_right: bool
    pass_rate: float
    """Of the answer's group."""


def verification_items(
    rewards: Sequence[float], groups: Sequence[Key], *, num: int, rng: Random
) -> list[VerificationItem[Key]]:
    """Choose answers to judge, half of them right: hard groups first, with repetition if need be.

    A mixed group gives one right and one wrong answer, an all-right group one right answer, an
    all-wrong group none: what is hopeless teaches no judgement.

    Args:
        rewards: 1 for right; anything less is wrong.
        groups: The group of each answer.
        num: Items wanted; must be even.
        rng: Draws within groups.

    Raises:
        ValueError: `num` is odd, or lengths differ.
    """
    num = whole("num", num)
    if num < 0 or num % 2 or len(rewards) != len(groups):
        raise ValueError(
            f"num must be even and one group per reward given, got {num}, {len(rewards)} rewards "
            f"and {len(groups)} groups"
        )
    found = _judgeable(rewards, groups, rng)
    if not found[True] or not found[False]:
        return []
    chosen: list[VerificationItem[Key]] = []
    for items in found.values():
        items.sort(key=lambda item: item.pass_rate)
        kept = items[: num // 2]
        chosen += kept + [rng.choice(items) for _ in range(num // 2 - len(kept))]
    rng.shuffle(chosen)
    return chosen


def _judgeable(
    rewards: Sequence[float], groups: Sequence[Key], rng: Random
) -> dict[bool, list[VerificationItem[Key]]]:
    """Return an answer of each kind from each group that has a right one."""
    members: dict[Key, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        if not math.isfinite(rewards[place]):
            raise ValueError(f"rewards must be finite, got {rewards[place]} at {place}")
        members[group].append(place)
    found: dict[bool, list[VerificationItem[Key]]] = {True: [], False: []}
    for group, places in members.items():
        right = [place for place in places if rewards[place] >= 1]
        wrong = [place for place in places if rewards[place] < 1]
        if not right:
            continue
        rate = len(right) / len(places)
        found[True].append(VerificationItem(rng.choice(right), group, True, rate))
        if wrong:
            found[False].append(VerificationItem(rng.choice(wrong), group, False, rate))
    return found


def verification_reward(item: VerificationItem[Any], verdict: bool | None) -> float:
    """Return the reward of a verdict (`None`: none given): the group's pass rate if true."""
    return item.pass_rate if verdict is item.is_right else 0.0
