"""Numbers as users have them, of Python, numpy or torch, as plain ones, to be compared and saved.

A truth value is no number, a text neither; a fraction of 0 is no whole number.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor


def plain(value: Any) -> Any:
    """Return what a scalar of numpy, or an array or tensor without axes, holds; else the value."""
    is_held = isinstance(value, Tensor | np.ndarray) and value.ndim == 0
    return value.item() if is_held or isinstance(value, np.generic) else value


def as_number(value: object) -> float | None:
    """Return a number, finite or not, as a float; `None` for what is none."""
    if type(value) is float:
        return value
    held = plain(value)
    if isinstance(held, bool) or not isinstance(held, Real):
        return None
    try:
        return float(held)
    except OverflowError:
        return None


def as_whole(value: object) -> int | None:
    """Return a whole number as an int; `None` for what is none."""
    held = plain(value)
    return int(held) if isinstance(held, Integral) and not isinstance(held, bool) else None


def number(name: str, value: object) -> float:
    """Return a setting as a float.

    Raises:
        ValueError: It is no number.
    """
    found = as_number(value)
    if found is None:
        raise ValueError(f"{name} must be a number, got {value!s:.60}")
    return found


def whole(name: str, value: object) -> int:
    """Return a setting as an int.

    Raises:
        ValueError: It is no whole number.
    """
    found = as_whole(value)
    if found is None:
        raise ValueError(f"{name} must be a whole number, got {value!s:.60}")
    return found


def keep(config: object, **values: object) -> None:
    """Set fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(config, name, value)
