"""Ways of asking with a phrase left out: a value that is withheld, or a record named already."""

from __future__ import annotations

import re
from collections.abc import Iterable


def left_out(way: str, argument: str, forms: Iterable[tuple[str, str]]) -> str:
    """Return a way of asking that does not say a value; empty if none of the forms fits.

    Args:
        way: With `{argument}` in it.
        argument: Name of the value.
        forms: Patterns, with `VALUE` for the value, and what is put in the place of each; of the
            first that fits once.
    """
    for pattern, instead in forms:
        found = re.sub(pattern.replace("VALUE", rf"\{{{argument}\}}"), instead, way)
        if found != way and f"{{{argument}}}" not in found and len(found.split()) > 2:
            return found
    return ""


def named_once(way: str, slot: str, amount: str, pattern: str) -> str:
    """Leave out a record after an amount of it: `move {amount} from {self} to {target}`.

    Args:
        way: A way of asking.
        slot: Of the record.
        amount: Name of the amount, whose words name the record.
        pattern: What may lead to a record.

    Returns:
        The way without the record; empty if that cannot be left out.
    """
    found = re.fullmatch(rf"(.*\{{{amount}\}}.*?)(?: (?:{pattern})) \{{{slot}\}}(.*)", way)
    return found[1] + found[2] if found is not None else ""
