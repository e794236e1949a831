"""How much better than its group a sequence did."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

Baseline = Literal["mean_std", "mean", "leave_one_out", "none"]

_ROUNDING = 1e-6
"""Rewards whose spread is within this of their size (of 1 at most) are equal but for rounding."""


def group_advantages(
    rewards: Sequence[float], groups: Sequence[Hashable], *, baseline: Baseline = "mean_std"
) -> list[float]:
    """Return one advantage per sequence; groups may differ in size.

    Unless `baseline` is `none`, a group of equal rewards, or of one member, has advantage exactly
    0.

    Args:
        rewards: One per sequence.
        groups: The group of each sequence, any hashable.
        baseline: `mean_std`: `(r - mean) / std` (population). `mean`: `r - mean`.
            `leave_one_out`: `r` minus the mean of the others. `none`: `r` itself; with rewards 0
            and 1 only successes push. The expected gradient is that of `mean`, and what a failed
            attempt went on to say after its mistake adds no noise to it.

    Raises:
        ValueError: Lengths differ, a reward is not finite, or the baseline is unknown.
    """
    if len(rewards) != len(groups):
        raise ValueError(f"one group per reward: {len(rewards)} rewards, {len(groups)} groups")
    for place, reward in enumerate(rewards):
        if not is_finite(reward):
            raise ValueError(
                f"rewards must be finite, got {reward!s:.60} at {place}, of group {groups[place]!r}"
            )
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline must be one of {get_args(Baseline)}, got {baseline!r}")
    rewards = [float(reward) for reward in rewards]  # of numpy and torch they compute otherwise
    if baseline == "none":
        return rewards
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    advantages = [0.0] * len(rewards)
    for places in members.values():
        own = [rewards[place] for place in places]
        for place, value in zip(places, _within(own, baseline), strict=True):
            advantages[place] = value
    return advantages


def is_finite(reward: object) -> bool:
    """Whether a reward is a finite number."""
    try:
        return math.isfinite(reward)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return False


def _within(rewards: list[float], baseline: Baseline) -> list[float]:
    size, largest = len(rewards), max(map(abs, rewards))
    if max(rewards) - min(rewards) <= _ROUNDING * min(1.0, largest):
        return [0.0] * size
    mean = math.fsum(reward / size for reward in rewards)
    if baseline == "mean":
        return [reward - mean for reward in rewards]
    if baseline == "leave_one_out":
        return [(reward - mean) * size / (size - 1) for reward in rewards]
    std = math.dist(rewards, [mean] * size) / math.sqrt(size)
    return [(reward - mean) / std for reward in rewards]
