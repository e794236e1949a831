"""Count equal answers, and know when the count can no longer change."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from longcat_heavythink._confidence import (
    bottom_group_confidence,
    lowest_group_confidence,
    mean_confidence,
    tail_confidence,
)
from longcat_heavythink._normalise import normalise
from longcat_heavythink._replies import Reply

Normalise = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates that give the same answer."""

    key: str
    members: tuple[int, ...]
    """Their numbers, ascending."""
    weight: float


def vote_key(reply: Reply, normaliser: Normalise = normalise) -> str:
    """Return what makes two replies equal: their tool calls where there are any, else the answer.

    >>> vote_key(Reply(text="The answer is 1/2.")) == vote_key(Reply(text="0.5"))
    True
    """
    if not reply.tool_calls:
        return normaliser(reply.text)
    calls = [[call.name, _canonical(call.arguments)] for call in reply.tool_calls]
    return "tools:" + json.dumps(calls)


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def group_replies(
    replies: Mapping[int, Reply],
    normaliser: Normalise = normalise,
    weights: Mapping[int, float] | None = None,
) -> list[Group]:
    """Return the groups of equal answers, the heaviest first; ties go to the lowest number.

    Args:
        replies: Good ones, by number.
        normaliser: Maps an answer to what makes it equal to others.
        weights: Of each reply; 1 when absent.
    """
    found: dict[str, list[int]] = {}
    for number in sorted(replies):
        found.setdefault(vote_key(replies[number], normaliser), []).append(number)
    groups = [
        Group(key, tuple(members), sum(weights[m] if weights else 1.0 for m in members))
        for key, members in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.weight, group.members[0]))


class Tally:
    """A count of equal answers, one answer at a time; O(1) each.

    >>> tally = Tally()
    >>> [tally.add(key) for key in ("a", "b", "a", "a")]
    [1, 0, 1, 2]
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._most, self._second = 0, 0
        self._leader = ""

    def add(self, key: str) -> int:
        """Count an answer; return by how many votes the leading one leads."""
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if key == self._leader:
            self._most = count
        elif count > self._most:
            self._second, self._most, self._leader = self._most, count, key
        elif count > self._second:
            self._second = count
        return self._most - self._second


def is_decided(counts: Iterable[int], outstanding: int) -> bool:
    """Say whether no outcome of the outstanding votes can change who leads.

    The lead must exceed them: an equal number could tie, and a tie is settled by number.

    >>> is_decided([5, 2], outstanding=2), is_decided([5, 2], outstanding=3)
    (True, False)
    """
    first, second, *_ = [*sorted(counts, reverse=True), 0, 0]
    return first - second > outstanding


def confidence_weights(
    replies: Mapping[int, Reply], *, weight: str, keep: float, window: int
) -> dict[int, float] | None:
    """Return the weight of each reply that may vote, or `None` where confidence is missing."""
    scores: dict[int, float] = {}
    for number, reply in replies.items():
        if reply.confidence is None:
            return None
        score = _score(reply.confidence, weight, window)
        scores[number] = score if math.isfinite(score) else 0.0
    ranked: Sequence[int] = sorted(scores, key=lambda number: (-scores[number], number))
    kept = ranked[: max(1, round(len(ranked) * keep))]
    return {number: 1.0 if weight == "count" else scores[number] for number in kept}


def _score(confidence: Sequence[float], weight: str, window: int) -> float:
    if weight == "tail":
        return tail_confidence(confidence, window)
    if weight == "lowest":
        return lowest_group_confidence(confidence, window)
    if weight == "bottom":
        return bottom_group_confidence(confidence, window)
    return mean_confidence(confidence)
