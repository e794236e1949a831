"""One write of a chain, and the numbers that its arguments may be."""

from __future__ import annotations

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
