"""Make answers fit into a prompt, by a stated policy.

- `fair`: every answer is kept; the longest are cut in the middle until all fit.
- `clusters`: one of each group of equal answers is kept, with the number that gave it; the largest
  groups first, and the smallest are left out where even cutting would leave less than
  `LEAST_CHARS` of each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

POLICIES = ("fair", "clusters")
LEAST_CHARS = 200
_GAP = " ... "


@dataclass(frozen=True, slots=True)
class Packed:
    """What a prompt will show."""

    texts: list[str]
    members: list[int]
    """Which answer each text is, by its place in the input."""
    counts: list[int]
    """How many answers each text stands for."""
    num_cut: int
    """Texts that were shortened."""


def pack(
    answers: Sequence[str],
    *,
    max_chars_each: int,
    max_chars: int | None = None,
    policy: str = "fair",
    key: Callable[[int], Hashable] | None = None,
) -> Packed:
    """Choose and shorten answers so that all of them together have at most `max_chars`.

    Args:
        answers: Texts of the attempts.
        max_chars_each: No text is longer than this.
        max_chars: Nor are all of them together, where it is given.
        policy: `fair` or `clusters`.
        key: Equal keys are equal answers, by place; the text itself when absent.
    """
    if policy not in POLICIES:
        raise ValueError(f"packing must be one of {', '.join(POLICIES)}, got {policy!r}")
    members = list(range(len(answers)))
    counts = [1] * len(answers)
    if policy == "clusters":
        groups: dict[Hashable, list[int]] = {}
        for place in members:
            groups.setdefault(key(place) if key else answers[place], []).append(place)
        ranked = sorted(groups.values(), key=lambda group: (-len(group), group[0]))
        if max_chars is not None:
            ranked = ranked[: max(1, max_chars // LEAST_CHARS)]
        shortest = [min(group, key=lambda place: (len(answers[place]), place)) for group in ranked]
        members, counts = shortest, [len(group) for group in ranked]
    texts = [answers[place] for place in members]
    cap = max_chars_each
    if max_chars is not None:
        cap = min(cap, fair_cap([len(text) for text in texts], max_chars))
    cut_texts = [cut(text, cap) for text in texts]
    num_cut = sum(len(text) > cap for text in texts)
    return Packed(cut_texts, members, counts, num_cut)


def fair_cap(lengths: Sequence[int], total: int) -> int:
    """Return the highest cap under which the capped lengths sum to at most `total`.

    >>> fair_cap([10, 100, 100], 110)
    50
    """
    left, cap = total, max(lengths, default=0)
    for rank, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - rank)
        if length > share:
            return share
        left -= length
    return cap


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters: the beginning and the end, where that makes sense."""
    if len(text) <= limit:
        return text
    if limit <= 2 * len(_GAP):
        return text[:limit]
    front = (limit - len(_GAP) + 1) // 2
    back = limit - len(_GAP) - front
    return text[:front] + _GAP + text[len(text) - back :]
