"""Confidence of an answer from its log-probabilities, after DeepConf (arXiv 2508.15260).

Every window is one subtraction of running sums, so an answer of n tokens costs O(n).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def token_confidence(logprobs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return per token minus the mean log-probability of its likeliest alternatives."""
    return tuple([sum(row, 0.0) / -len(row) if row else 0.0 for row in logprobs])


def group_confidence(confidence: Sequence[float], window: int) -> list[float]:
    """Return the mean of every window of `window` tokens; the whole mean where it is shorter.

    >>> group_confidence([1.0, 2.0, 3.0, 4.0], 2)
    [1.5, 2.5, 3.5]
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if len(confidence) <= window:
        return [sum(confidence) / len(confidence)] if confidence else []
    sums = [0.0, *accumulate(confidence)]
    return [(high - low) / window for low, high in zip(sums, sums[window:], strict=False)]


def mean_confidence(confidence: Sequence[float]) -> float:
    """Return the mean over all tokens, 0 for none."""
    return sum(confidence) / len(confidence) if confidence else 0.0


def tail_confidence(confidence: Sequence[float], tokens: int = 2048) -> float:
    """Return the mean over the last `tokens`."""
    return mean_confidence(confidence[-tokens:])


def lowest_group_confidence(confidence: Sequence[float], window: int = 2048) -> float:
    """Return the least confident window's mean, 0 for none."""
    return min(group_confidence(confidence, window), default=0.0)


def bottom_group_confidence(
    confidence: Sequence[float], window: int = 2048, share: float = 0.1
) -> float:
    """Return the mean of the least confident `share` of windows."""
    groups = sorted(group_confidence(confidence, window))
    return mean_confidence(groups[: max(1, int(len(groups) * share))])
