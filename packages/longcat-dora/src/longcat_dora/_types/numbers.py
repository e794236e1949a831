"""Numbers that a person gives: each is what it must be, or is named."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any


def whole(name: str, value: Any, *, least: int | None = None) -> int:
    """Return a whole number, of numpy perhaps, as Python's.

    Raises:
        ValueError: It is none, or less than `least`.
    """
    rule = "a whole number" if least is None else f"at least {least}"
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None:
        told = "" if least is None else f" {rule},"
        raise ValueError(f"{name} must be{told} a whole number, got {value!r}")
    if least is not None and found < least:
        raise ValueError(f"{name} must be {rule}, got {value}")
    return found


def real(name: str, value: Any) -> float:
    """Return a number, of numpy perhaps, as Python's; it may be infinite.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool):
        found = math.nan
    elif isinstance(value, (int, float)):
        found = value if type(value) in (int, float) else float(value)
    elif isinstance(value, numbers.Real):
        found = float(value)
    else:
        found = math.nan
    if math.isnan(found):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return found
