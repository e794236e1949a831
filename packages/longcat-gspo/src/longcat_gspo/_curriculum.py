"""Which task next: draw more of what is neither mastered nor out of reach.

Tasks are grouped by a capability key. Each key's pass rate is an average over what was seen under
recent policies; its weight is `share (p (1 - p) + floor)`, largest at the frontier. As easy keys
are mastered their weight falls, so that the mix moves from easy to hard by itself. `share` is the
key's part of all tasks: without it a dozen rare and hopeless combinations would take most draws.

Source: LongCat-Flash-Thinking-2601 report 3.3.1 (difficulty by pass rate, capability tags); the
weight and its constants are ours.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import Any, Generic, TypeVar

from ._numbers import number, plain

Key = TypeVar("Key", bound=Hashable)


class PassRateCurriculum(Generic[Key]):
    """Draws keys by what can be learned from them.

    Example:
        >>> curriculum = PassRateCurriculum(["easy", "hard"], seed=0)
        >>> curriculum.record("easy", 1.0)
        >>> curriculum.explain("easy").startswith("pass rate")
        True
    """

    def __init__(
        self,
        keys: Sequence[Key] | Mapping[Key, float],
        *,
        seed: int,
        floor: float = 0.02,
        memory: float = 0.9,
    ) -> None:
        """Draw among `keys`, alike or by the number of tasks each stands for."""
        given = dict(keys) if isinstance(keys, Mapping) else dict.fromkeys(keys, 1.0)
        shares = {key: number(f"the share of {key!r}", share) for key, share in given.items()}
        if not shares or not all(0 < share < math.inf for share in shares.values()):
            raise ValueError(f"need at least one key, all with a positive share, got {shares}")
        memory, floor = number("memory", memory), number("floor", floor)
        if not 0 <= memory < 1 or not 0 < floor < math.inf:
            raise ValueError(f"need 0 <= memory < 1 and floor > 0, got {memory} and {floor}")
        self._shares = shares
        self._rates: dict[Key, float] = dict.fromkeys(shares, 0.5)
        self._seen: dict[Key, int] = dict.fromkeys(shares, 0)
        self._rng, self._floor, self._memory = Random(plain(seed)), floor, memory

    def weight(self, key: Key) -> float:
        """Return the unnormalised chance of a key."""
        rate = self._rates[key]
        return self._shares[key] * (rate * (1 - rate) + self._floor)

    def pass_rate(self, key: Key) -> float:
        """Return the average of what was recorded for a key; one half before anything was."""
        return self._rates[key]

    def draw(self) -> Key:
        """Return a key."""
        keys = list(self._rates)
        return self._rng.choices(keys, [self.weight(key) for key in keys])[0]

    def record(self, key: Key, pass_rate: float) -> None:
        """Take note of a group's pass rate: a plain mean at first, an exponential one later.

        Raises:
            ValueError: It is not in [0, 1].
        """
        pass_rate = number(f"pass_rate of {key!r}", pass_rate)
        if not 0 <= pass_rate <= 1:
            raise ValueError(f"pass_rate of {key!r} must be in [0, 1], got {pass_rate}")
        self._seen[key] += 1
        step = max(1 - self._memory, 1 / (self._seen[key] + 1))
        self._rates[key] += step * (pass_rate - self._rates[key])

    def explain(self, key: Key) -> str:
        """Say why a key is drawn as often as it is."""
        total = sum(map(self.weight, self._rates))
        return f"pass rate {self._rates[key]:.2f}, share {self.weight(key) / total:.2f}"

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores."""
        return {
            "rates": dict(self._rates), "seen": dict(self._seen), "rng": self._rng.getstate(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state, from JSON too if keys are strings.

        Raises:
            ValueError: It is of other keys.
        """
        if set(state["rates"]) != set(self._shares):
            raise ValueError(
                f"a state must be of the same keys, got {sorted(map(str, state['rates']))}"
            )
        self._rates, self._seen = dict(state["rates"]), dict(state["seen"])
        version, internal, gauss = state["rng"]
        self._rng.setstate((version, tuple(internal), gauss))
