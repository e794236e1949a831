"""Keep a stream's batches balanced over domains without waiting for the slow ones.

- A task that is seldom solved is started in several groups at once, so that some group has a
  success to learn from (`num_groups`); each group forms its own advantages.
- Between domains, whoever is furthest behind its share is started next (`Oversampler`). What is
  under way counts as far as it is expected to arrive with a signal, so a slow domain is started
  earlier, not more often. What was started is forgotten in time, under way or not: a domain does
  not make up for what its first, slow groups could not give, and one that always has much under
  way does not look as if it had been given that.
- A domain that gives no signal for long is named, and held back to a few starts that would find out
  if that changes; its share is the others' until then.

Source: LongCat-Flash-Thinking-2601 report 3.3.3 (oversampling by historical pass rate, duplication
into groups, separate ratios per domain and data type). It prints no formula; these are ours.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar, cast

from ._numbers import as_number, number, whole

Key = TypeVar("Key", bound=Hashable)

_HOPELESS_AFTER = 400
"""Groups without a signal, one after the other. At a signal rate of 0.02 there are as many in 3 of
10,000."""
_PROBES = 0.02
"""Share of the starts that a hopeless domain gets."""
_WINDOW = 384
"""Signals after which what was started counts 1/e."""


def num_groups(pass_rate: float, *, group_size: int, confidence: float = 0.8, most: int = 4) -> int:
    """Return in how many groups to start a task: enough for one success with this probability.

    Never less than one nor more than `most`; a pass rate of 0 gets `most`.
    """
    pass_rate, confidence = number("pass_rate", pass_rate), number("confidence", confidence)
    group_size, most = whole("group_size", group_size), whole("most", most)
    if not 0 <= pass_rate <= 1 or group_size < 1 or not 0 < confidence < 1 or most < 1:
        raise ValueError(
            "need pass_rate in [0, 1], group_size >= 1, confidence in (0, 1) and most >= 1, got "
            f"{pass_rate}, {group_size}, {confidence} and {most}"
        )
    if pass_rate == 1:
        return 1
    each = group_size * math.log(1 - pass_rate)
    if each == 0:  # or so near that nothing is left of it
        return most
    needed = math.log(1 - confidence) / each
    return min(max(math.ceil(needed), 1), most)


class Oversampler(Generic[Key]):
    """Chooses which domain (or domain and data type) to start next.

    Args:
        shares: What each is to be of the groups that are trained on.
        max_running_share: Of what runs, that a domain may hold before its first signal.
        memory: Of the average by which a domain's signal rate is estimated.

    Example:
        >>> sampler = Oversampler({"search": 1.0, "shop": 1.0})
        >>> sampler.start()
        'search'
        >>> sampler.start()
        'shop'
        >>> sampler.finish("shop", has_signal=True)
    """

    def __init__(
        self, shares: Mapping[Key, float], *, max_running_share: float = 0.97, memory: float = 0.98
    ) -> None:
        given: Any = shares
        held = {k: as_number(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
        if not held or not all(v is not None and 0 < v < math.inf for v in held.values()):
            raise ValueError(f"need at least one key, all with a positive share, got {shares}")
        shares = cast("dict[Key, float]", held)
        max_running_share = number("max_running_share", max_running_share)
        memory = number("memory", memory)
        if not 0 < max_running_share <= 1 or not 0 <= memory < 1:
            raise ValueError(
                f"need max_running_share in (0, 1] and memory in [0, 1), got {max_running_share} "
                f"and {memory}"
            )
        largest = max(shares.values())  # whose sum may be no number
        total = sum(share / largest for share in shares.values())
        self._share = {key: share / largest / total for key, share in shares.items()}
        self._running: dict[Key, int] = dict.fromkeys(shares, 0)
        self._under_way: dict[Key, float] = dict.fromkeys(shares, 0.0)
        """What runs, each by how long ago it was started."""
        self._given: dict[Key, float] = dict.fromkeys(shares, 0.0)
        self._signal: dict[Key, float] = dict.fromkeys(shares, 1.0)
        self._finished: dict[Key, int] = dict.fromkeys(shares, 0)
        self._in_vain: dict[Key, int] = dict.fromkeys(shares, 0)
        """Groups that ended without a signal since the last one with."""
        self._has_given: dict[Key, bool] = dict.fromkeys(shares, False)
        self._probes: dict[Key, float] = dict.fromkeys(shares, 0.0)
        self._max_running_share, self._memory = max_running_share, memory

    @property
    def hopeless(self) -> list[Key]:
        """Domains that gave no signal for long and are held back."""
        return [key for key, num in self._in_vain.items() if num >= _HOPELESS_AFTER]

    def start(self) -> Key:
        """Return the key furthest behind its share, and count it as running."""
        hopeless = self.hopeless
        for key in hopeless:
            self._probes[key] += _PROBES
        due = [key for key in hopeless if self._probes[key] >= 1]
        if due:
            key = due[0]
            self._probes[key] -= 1
        else:
            alive = [key for key in self._share if key not in hopeless] or list(self._share)
            total = sum(map(self._expected, alive)) + 1
            share = sum(self._share[key] for key in alive)
            key = max(alive, key=lambda key: self._need(key, total, share))
        self._running[key] += 1
        self._under_way[key] += 1
        return key

    def finish(self, key: Key, *, has_signal: bool) -> None:
        """Note that a group of `key` ended, and whether a batch could use it."""
        if self._running.get(key, 0) < 1:
            raise ValueError(f"{key!r} has nothing running that could finish")
        weight = self._under_way[key] / self._running[key]  # which of them it was is not known
        self._under_way[key] -= weight
        self._running[key] -= 1
        self._finished[key] += 1
        has_signal = bool(has_signal)  # of numpy: its difference from a number is none
        step = max(1 - self._memory, 1 / (self._finished[key] + 1))
        self._signal[key] += step * (has_signal - self._signal[key])
        self._in_vain[key] = 0 if has_signal else self._in_vain[key] + 1
        if has_signal:
            self._has_given[key] = True
            self._given[key] += weight
            for other in self._given:
                self._given[other] *= 1 - 1 / _WINDOW
                self._under_way[other] *= 1 - 1 / _WINDOW

    def ratio(self, key: Key) -> float:
        """Groups started for each that a batch can use."""
        return 1 / max(self._signal[key], 0.01)

    def _expected(self, key: Key) -> float:
        return self._given[key] + self._under_way[key] / self.ratio(key)

    def _need(self, key: Key, total: float, share: float) -> float:
        running = sum(self._running.values())
        most = self._max_running_share * running
        if running > 2 and not self._has_given[key] and self._running[key] >= most:
            return -math.inf
        return self._share[key] / share - self._expected(key) / total

    def explain(self, key: Key) -> str:
        """Say where a key stands."""
        total = max(1.0, sum(self._given.values()))
        held = ""
        if self._in_vain[key] >= _HOPELESS_AFTER:
            held = f"; no signal in {self._in_vain[key]} groups: held back"
        return (
            f"share {self._share[key]:.2f}, given {self._given[key] / total:.2f}, "
            f"{self._running[key]} running, {self.ratio(key):.1f} started for each that is "
            f"used{held}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores; what runs is started anew."""
        return {
            "given": dict(self._given), "signal": dict(self._signal),
            "finished": dict(self._finished), "in_vain": dict(self._in_vain),
            "has_given": dict(self._has_given), "probes": dict(self._probes),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state.

        Raises:
            ValueError: It is of other keys.
        """
        if not isinstance(state, dict) or not {"given", "signal"} <= state.keys():
            raise ValueError(f"a state must be what state_dict returned, got {state!r:.80}")
        if set(state["given"]) != set(self._share) or set(state["signal"]) != set(self._share):
            raise ValueError(
                f"a state must be of the same keys, got {sorted(map(str, state['given']))}"
            )
        self._given, self._signal = dict(state["given"]), dict(state["signal"])
        for name in ("finished", "in_vain", "has_given", "probes"):
            setattr(self, f"_{name}", dict(state.get(name, getattr(self, f"_{name}"))))
        self._running = dict.fromkeys(self._share, 0)
        self._under_way = dict.fromkeys(self._share, 0.0)
