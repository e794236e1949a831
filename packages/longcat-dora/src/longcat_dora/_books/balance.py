"""How many engine replicas hold each version, and who takes the next trajectory.

Source: DORA, algorithm 1: `DP_w = Round(DP_total * R_w / sum R)`. How rounding is repaired is not
told there; here a version that has requests keeps at least one replica, and the rest goes by
largest remainder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longcat_dora._rollout.messages import Controller


def assign_replicas(num_replicas: int, requests: Mapping[int, int]) -> dict[int, int]:
    """Return version to its number of replicas; they add up to `num_replicas`.

    With fewer replicas than versions that have requests, the oldest get one each: they are what the
    trainer waits for at the hard bound, and nobody starts on them any more.

    Raises:
        ValueError: There is no replica, or a number of requests is negative.

    Example:
        >>> assign_replicas(4, {0: 1, 1: 6, 2: 5})
        {0: 1, 1: 2, 2: 1}
    """
    if num_replicas < 1 or any(num < 0 for num in requests.values()):
        raise ValueError(
            f"need num_replicas >= 1 and no negative requests, got {num_replicas} and"
            f" {dict(requests)}"
        )
    asked = {version: num for version, num in requests.items() if num}
    if not asked:
        newest = max(requests, default=None)
        return {} if newest is None else {newest: num_replicas}
    if len(asked) > num_replicas:
        oldest = sorted(asked)[:num_replicas]
        return {version: int(version in oldest) for version in sorted(asked)}
    total = sum(asked.values())
    exact = {version: num_replicas * num / total for version, num in asked.items()}
    given = {version: max(1, int(share)) for version, share in exact.items()}
    while sum(given.values()) < num_replicas:
        given[max(given, key=lambda v: (exact[v] - given[v], v))] += 1
    while sum(given.values()) > num_replicas:
        given[min((v for v in given if given[v] > 1), key=lambda v: (exact[v] - given[v], v))] -= 1
    return dict(sorted(given.items()))


def plan_moves(holding: Sequence[int | None], wanted: Mapping[int, int]) -> dict[int, int]:
    """Say which replicas change their version: its index to the new one; as few as can be.

    Args:
        holding: The version that each replica holds now, if any.
        wanted: From `assign_replicas`.
    """
    left = dict(wanted)
    free: list[int] = []
    for index, version in enumerate(holding):
        if version is not None and left.get(version, 0) > 0:
            left[version] -= 1
        else:
            free.append(index)
    lacking = [version for version in sorted(left) for _ in range(left[version])]
    return dict(zip(free, lacking, strict=False))


class LoadBalancer:
    """Chooses the controller for the next trajectory: the one that samples the fewest."""

    def choose(self, controllers: Sequence[Controller]) -> Controller | None:
        """Return a controller that is ready, if there is one."""
        ready = [controller for controller in controllers if controller.is_ready]
        return min(ready, key=lambda controller: len(controller.running), default=None)
