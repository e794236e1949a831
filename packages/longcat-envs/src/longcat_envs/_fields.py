"""Fields of a domain file, each checked for its type as it is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
MAX_NAME = 60
"""Characters of a name: what servers of models take for the name of a tool."""


class DomainError(ValueError):
    """A domain file breaks a rule."""


def only(
    raw: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    """Check that something is a table with these keys."""
    for key in required:
        if key not in table(where, "", raw):
            raise DomainError(f"{where} must have {key!r}")
    for key in table(where, "", raw):
        if key not in required and key not in optional:
            raise DomainError(f"{where} has the unknown key {key!r}")


def table(where: str, field: str, value: Any) -> dict[str, Any]:
    """Return a table."""
    if not isinstance(value, dict):
        raise DomainError(f"{_place(where, field)} must be a table, got {_short(value)}")
    return cast("dict[str, Any]", value)


def rows(where: str, field: str, value: Any) -> list[dict[str, Any]]:
    """Return a list of tables."""
    if not isinstance(value, list):
        raise DomainError(f"{_place(where, field)} must be a list of tables, got {_short(value)}")
    return [table(where, f"each of {field}", item) for item in cast("list[Any]", value)]


def text(where: str, field: str, value: Any) -> str:
    """Return a text that can be read."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise DomainError(f"{_place(where, field)} must be a text, got {_short(value)}")
    return value


def name(where: str, field: str, value: Any) -> str:
    """Return a name."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > MAX_NAME:
        raise DomainError(
            f"{_place(where, field)} must be letters, digits and _, {MAX_NAME} at most, "
            f"got {_short(value)}"
        )
    return value


def texts(where: str, field: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts: not one text, which would be read letter by letter; not empty."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise DomainError(f"{_place(where, field)} must be a list of texts, got {_short(value)}")
    return tuple(items)


def distinct(what: str, names: Sequence[Any]) -> None:
    """Check that names are names, and that no two differ in case only, as SQL does not."""
    lower = [name("", what, one).lower() for one in names]
    for one in names:
        if lower.count(one.lower()) > 1:
            raise DomainError(f"{what} must be distinct, {one!r} is there twice")


def known(where: str, field: str, names: Iterable[Any], allowed: Sequence[str]) -> None:
    """Check that names are among those allowed."""
    for one in names:
        if one not in allowed:
            raise DomainError(
                f"{where}: {field} must be among {', '.join(allowed)}, got {_short(one)}"
            )


def says(where: str, ways: Iterable[str], named: Iterable[str]) -> None:
    """Check that each way of saying names all of these, `{so}`, and nothing else."""
    wanted = set(named)
    for words in ways:
        found = set(_PLACEHOLDER.findall(words))
        if found != wanted or "{" in _PLACEHOLDER.sub("", words):
            hint = " and ".join("{" + one + "}" for one in sorted(wanted))
            raise DomainError(f"{where}: say must name {hint} and nothing else, got {words!r}")


def _place(where: str, field: str) -> str:
    return f"{where}: {field}" if where and field else where or field


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
