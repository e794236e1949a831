"""Which domain is furthest behind its share of what is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from .config import SchedulerConfig
from .group import Group


class Quotas:
    """Counts what each domain has contributed, and what is open of it."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._weights = config.quotas
        self._contributed: Counter[str] = Counter()
        """Domain to groups that were trained on."""
        self._open: Counter[str] = Counter()

    def opened(self, group: Group) -> None:
        """A group was opened."""
        self._open[group.domain] += 1

    def closed(self, group: Group, *, is_trained_on: bool = False) -> None:
        """A group is open no more."""
        self._open[group.domain] -= 1
        self._contributed[group.domain] += is_trained_on

    def next_domain(self, domains: Collection[str]) -> str:
        """The domain that is furthest behind its quota, counting what is open."""
        have = {d: self._contributed[d] + self._open[d] for d in domains}
        weights = {d: self._weights.get(d, 0.0) for d in domains}
        total = sum(weights.values())
        if not total:
            return min(domains, key=lambda d: have[d])
        num = sum(have.values()) + 1
        return max(domains, key=lambda d: weights[d] / total * num - have[d])

    def choose(self, due: Sequence[Group], complete: Sequence[Group], num: int) -> list[Group]:
        """Choose so many groups: those that are due, then the oldest, or of the domains behind."""
        chosen = list(due)
        rest = [group for group in complete if group not in chosen]
        if not self._weights:
            return chosen + rest[: max(0, num - len(chosen))]
        have = self._contributed + Counter(group.domain for group in chosen)
        total = sum(self._weights.values())
        while rest and len(chosen) < num:
            goal = sum(have.values()) + 1

            def behind(group: Group, goal: int = goal) -> float:
                share = self._weights.get(group.domain, 0.0) / total
                return share * goal - have[group.domain]

            best = max(rest, key=behind)  # the first, and so the oldest, of equals
            rest.remove(best)
            chosen.append(best)
            have[best.domain] += 1
        return chosen
