"""Arguments of parts: the same rule and the same words for all of them."""

from __future__ import annotations


def take(
    positional: list[str], named: dict[str, str], *, first: tuple[str, ...], rest: dict[str, str]
) -> dict[str, str]:
    """Return the arguments by name.

    Args:
        positional: Arguments without a name, in order.
        named: Arguments with one.
        first: Names that must be given, in order; they may be given without their name.
        rest: Names that may be left out, with what they are then; empty means required.

    Raises:
        ValueError: One is missing, unknown or given twice.
    """
    if len(positional) > len(first):
        raise ValueError(f"takes {', '.join(first)} and then named arguments, got {positional}")
    given = dict(zip(first, positional, strict=False))
    for name, value in named.items():
        if name in given or name not in (*first, *rest):
            raise ValueError(f"takes {', '.join((*first, *rest))}, got {name!r}")
        given[name] = value
    found = {**{name: text for name, text in rest.items() if text}, **given}
    for name in (*first, *rest):
        if name not in found:
            raise ValueError(f"needs {name}")
    return found
