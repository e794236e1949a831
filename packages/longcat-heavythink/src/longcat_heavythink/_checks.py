"""What a setting must be, said in one way wherever it is given."""

from __future__ import annotations

import math
from typing import Any


def check_whole(name: str, value: Any, least: int | None = 1) -> None:
    """Refuse what is no whole number from `least` (any, where that is `None`)."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or (least is not None and value < least):
        rule = "a whole number" if least is None else f"a whole number from {least}"
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def check_number(name: str, value: Any, *, zero: bool = True) -> None:
    """Refuse what is no finite number, is negative, or is 0 where `zero` says so."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        rule = "finite and not negative" if zero else "positive and finite"
        raise ValueError(f"{name} must be {rule}, got {value!r}")
