"""Sizes and bounds of a run's schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from longcat_dora._types.numbers import real, whole

AtBound = Literal["wait", "discard", "continue", "mask"]
"""What happens when a step could be taken but for a group that holds version `n - H` and is not
complete.

- `wait`: the trainer waits for it. Nothing is lost, C1 to C3 hold.
- `discard`: its members of that version end as `expired` and are sampled anew (the 2509 report). C1
  to C3 hold.
- `continue`: members being sampled go on under the newest version, and each token's version is
  recorded; finished ones are discarded. C3 holds for the newest token of a trajectory.
- `mask`: members being sampled go on likewise; what is older than the bound is not learned from,
  and counts for its group's mean alone. C3 holds for every token that is learned from.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Sizes and bounds."""

    groups_per_batch: int = 4
    group_size: int = 8
    """Attempts at each task; advantages are formed within a group."""
    soft_staleness: float = 1
    """Steps a trajectory waits on average: shapes admission. Batches open at once,
    over-provisioning included, are one more."""
    hard_staleness: int = 4
    """Never exceeded: the trainer waits instead."""
    max_running: int = 64
    """Trajectories being sampled at once."""
    max_attempts: int = 3
    """Of one member of a group, after which the group makes do without it."""
    at_bound: AtBound = "wait"
    """What happens when the hard bound is reached and a group is not complete."""
    quotas: Mapping[str, float] = field(default_factory=dict[str, float])
    """Domain to its share of what is trained on, as weights; groups are chosen in the order they
    came when empty. A domain that has nothing to give never holds up a step."""
    keep_equal_rewards: bool = False
    """Train on groups whose rewards are all equal too: for a trainer whose signal is not the
    reward, such as distillation. `group_size=1` needs it."""
    reuse_ratio: float = 0.0
    """Share of a batch's groups that were trained on before, each once more at most, within the
    bound."""

    def __post_init__(self) -> None:
        if self.at_bound not in get_args(AtBound):
            raise ValueError(f"at_bound must be one of {get_args(AtBound)}, got {self.at_bound!r}")
        keeps = cast("object", self.keep_equal_rewards)
        if not isinstance(keeps, bool):
            raise ValueError(f"keep_equal_rewards must be true or false, got {keeps!r}")
        for name in ("groups_per_batch", "group_size", "max_running", "max_attempts"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        bound = whole("hard_staleness", self.hard_staleness)
        object.__setattr__(self, "hard_staleness", bound)
        for name in ("soft_staleness", "reuse_ratio"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        if not 0 <= self.soft_staleness <= self.hard_staleness:
            raise ValueError(
                f"need 0 <= soft_staleness <= hard_staleness, got {self.soft_staleness} and "
                f"{self.hard_staleness}"
            )
        if not 0 <= self.reuse_ratio < 1:
            raise ValueError(f"reuse_ratio must be in [0, 1), got {self.reuse_ratio}")
        _check_quotas(self.quotas)

    @property
    def max_open_groups(self) -> int:
        """`(soft_staleness + 1) * groups_per_batch`, rounded up."""
        return math.ceil((self.soft_staleness + 1) * self.groups_per_batch)


def _check_quotas(quotas: Any) -> None:
    if not isinstance(quotas, Mapping):
        raise ValueError(f"quotas must be a mapping of domains to weights, got {quotas!r}")
    quotas = cast("Mapping[Any, Any]", quotas)
    for domain, weight in quotas.items():
        if not isinstance(domain, str):
            raise ValueError(f"quotas must be by domain, which is text, got {domain!r}")
        if not 0 <= real(f"the quota of {domain!r}", weight) < math.inf:
            raise ValueError(f"quotas must not be negative, and finite, got {dict(quotas)}")
    if quotas and not any(quotas.values()):
        raise ValueError(f"quotas must not all be 0, got {dict(quotas)}")
