"""Keep a stream's batches balanced over domains without waiting for the slow ones.

- A task that is seldom solved is started in several groups at once, so that some group has a success to
  learn from (`num_groups`); each group forms its own advantages.
- Between domains, whoever is furthest behind its share is started next (`Oversampler`). What is under way
  counts as far as it is expected to arrive with a signal, so a slow domain is started earlier, not more
  often; a bound on its places keeps it from taking them all.

Source: LongCat-Flash-Thinking-2601 report 3.3.3 (oversampling by historical pass rate, duplication into
groups, separate ratios per domain and data type). It prints no formula; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


def num_groups(pass_rate: float, *, group_size: int, confidence: float = 0.8, most: int = 4) -> int:
    """Return in how many groups to start a task: enough for one success with this probability.

    Never less than one nor more than `most`; a pass rate of 0 gets `most`.
    """
    if not 0 <= pass_rate <= 1 or group_size < 1 or not 0 < confidence < 1 or most < 1:
        raise ValueError(
            "need pass_rate in [0, 1], group_size >= 1, confidence in (0, 1) and most >= 1, got "
            f"{pass_rate}, {group_size}, {confidence} and {most}"
        )
    if pass_rate in (0, 1):
        return most if pass_rate == 0 else 1
    needed = math.log(1 - confidence) / (group_size * math.log(1 - pass_rate))
    return min(max(math.ceil(needed), 1), most)


class Oversampler(Generic[Key]):
    """Chooses which domain (or domain and data type) to start next.

    Example:
        >>> sampler = Oversampler({"search": 1.0, "shop": 1.0}, max_running_share=0.7)
        >>> sampler.start()
        'search'
        >>> sampler.start()
        'shop'
        >>> sampler.finish("shop", has_signal=True)
    """

    def __init__(
        self, shares: Mapping[Key, float], *, max_running_share: float = 0.8, memory: float = 0.95
    ) -> None:
        if not shares or min(shares.values()) <= 0:
            raise ValueError(f"need at least one key, all with a positive share, got {shares}")
        if not 0 < max_running_share <= 1 or not 0 <= memory < 1:
            raise ValueError(
                f"need max_running_share in (0, 1] and memory in [0, 1), got {max_running_share} "
                f"and {memory}"
            )
        total = sum(shares.values())
        self._share = {key: share / total for key, share in shares.items()}
        self._running: dict[Key, int] = dict.fromkeys(shares, 0)
        self._given: dict[Key, float] = dict.fromkeys(shares, 0.0)
        self._signal: dict[Key, float] = dict.fromkeys(shares, 1.0)
        self._max_running_share, self._memory = max_running_share, memory

    def start(self) -> Key:
        """Return the key furthest behind its share, and count it as running."""
        key = max(self._share, key=self._need)
        self._running[key] += 1
        return key

    def finish(self, key: Key, *, has_signal: bool) -> None:
        """Note that a group of `key` ended, and whether a batch could use it."""
        if self._running[key] < 1:
            raise ValueError(f"{key!r} has nothing running that could finish")
        self._running[key] -= 1
        self._given[key] += has_signal
        self._signal[key] += (1 - self._memory) * (has_signal - self._signal[key])

    def ratio(self, key: Key) -> float:
        """Groups started for each that a batch can use."""
        return 1 / max(self._signal[key], 0.05)

    def _expected(self, key: Key) -> float:
        return self._given[key] + self._running[key] / self.ratio(key)

    def _need(self, key: Key) -> float:
        total = sum(map(self._expected, self._share)) + 1
        running = sum(self._running.values())
        if running > 2 and self._running[key] >= self._max_running_share * running:
            return -math.inf
        return self._share[key] - self._expected(key) / total

    def explain(self, key: Key) -> str:
        """Say where a key stands."""
        total = max(1.0, sum(self._given.values()))
        return (
            f"share {self._share[key]:.2f}, given {self._given[key] / total:.2f}, "
            f"{self._running[key]} running, {self.ratio(key):.1f} started for each that is used"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores; what runs is not part of it, it is started anew."""
        return {"given": dict(self._given), "signal": dict(self._signal)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state."""
        self._given, self._signal = dict(state["given"]), dict(state["signal"])
        self._running = dict.fromkeys(self._share, 0)
