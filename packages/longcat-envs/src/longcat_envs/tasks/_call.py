"""One write of a chain, and the numbers that its arguments may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a record of which people speak."""

    of: str
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """One write of a chain."""

    tool: str
    arguments: dict[str, Any]
    computed: dict[str, Figure] = field(default_factory=dict[str, Figure])
    """Arguments that are a number to be looked up."""
    is_helper: bool = False


def groups(chain: Sequence[Call]) -> list[tuple[int, int]]:
    """Return where each wish begins and ends, with what makes it possible."""
    found: list[tuple[int, int]] = []
    start = 0
    for place, call in enumerate(chain, start=1):
        if not call.is_helper:
            found.append((start, place))
            start = place
    return found
