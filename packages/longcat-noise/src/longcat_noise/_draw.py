"""Every random decision is a pure function of its name: no state, no order, no surprise.

`Draw(seed, episode)("failure", "find_member", 2)` is the same number in every process and run.
`canonical` names the arguments of a call: equal arguments, in whatever form, have one name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

Item = TypeVar("Item")

BETWEEN = "\x1f"
"""Stands between the parts of a name."""
_PLAIN = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Draw:
    """Uniform numbers in [0, 1) by name, for one episode.

    Example:
        >>> Draw(1, "demo")("find", 0) == Draw(1, "demo")("find", 0)
        True
    """

    seed: int
    episode: str
    _begun: Any = field(init=False, repr=False, compare=False)
    """The digest so far: seed and episode are digested once."""

    def __post_init__(self) -> None:
        begun = hashlib.blake2b(f"{self.seed}{BETWEEN}{self.episode}{BETWEEN}".encode(
            "utf-8", "surrogatepass"), digest_size=8)  # fmt: skip
        object.__setattr__(self, "_begun", begun)

    def __reduce__(self) -> Any:
        return Draw, (self.seed, self.episode)

    def __call__(self, *name: object) -> float:
        """Return the number of this name."""
        return self.number(BETWEEN.join(map(str, name)))

    def number(self, text: str) -> float:
        """Return the number of a name whose parts are joined by `BETWEEN`."""
        digest = self._begun.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return (int.from_bytes(digest.digest()) >> 11) / 2**53

    def choose(self, items: Sequence[Item], *name: object) -> Item:
        """Return the item of this name."""
        return items[int(self(*name) * len(items))]

    def order(self, items: Sequence[Item], *name: object) -> list[Item]:
        """Return the items in an order of this name; the first is what `choose` returns."""
        left, ordered = list(items), list[Item]()
        while left:
            number = self(*name, len(ordered)) if ordered else self(*name)
            ordered.append(left.pop(int(number * len(left))))
        return ordered


def canonical(arguments: Any) -> str:
    """Return the one name of a call's arguments: a mapping, or the JSON text of one.

    The order of keys does not matter; 1, 1.0, "1" and true are four things.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return f"text {arguments}"
    if type(arguments) is not dict and not isinstance(arguments, Mapping):
        return _named(arguments)
    items = cast("Mapping[str, Any]", arguments)
    if _PLAIN.issuperset(map(type, items.values())):
        return repr(sorted(items.items()))
    return _named(items)


def _named(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, default=_fallback)


def _fallback(value: Any) -> Any:
    """Name what JSON cannot hold, alike in every process: sets in order, objects by their type."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if isinstance(value, set | frozenset):
        return sorted(map(_named, cast("set[object]", value)))
    if isinstance(value, bytes):
        return value.hex()
    fields: Any = getattr(value, "__dict__", None)
    return [type(value).__name__, fields if isinstance(fields, dict) else None]
