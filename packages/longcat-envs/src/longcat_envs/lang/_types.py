"""Types of the domain language, and how their values are written down.

type     in memory                     in JSON
text     str                           string
int      int                           integer
money    int, cents                    string with two decimals, such as "12.50"
date     int, proleptic ordinal        string, ISO
days     (first, end), end excluded    two dates
flag     bool                          boolean
enum     str                           string, one of the options
ref      str, the id                   string
state    str                           string, one of the class's states
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal

Kind = Literal["text", "int", "money", "date", "days", "flag", "enum", "ref", "state", "none",
               "symbol"]  # fmt: skip

MAX_TEXT = 80
MAX_NUMBER = 10**9
_WHOLE, _AMOUNT = re.compile(r"-?[0-9]{1,10}"), re.compile(r"-?[0-9.]{1,15}")
_DATE, _ID = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), re.compile(r"[A-Z]{1,6}[0-9]{1,9}")
FIRST_DAY, LAST_DAY = date(1990, 1, 1).toordinal(), date(2099, 12, 31).toordinal()


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a field, a parameter or an expression."""

    kind: Kind
    of: str = ""
    """For `ref` and `state`: the class."""
    options: tuple[str, ...] = ()
    is_optional: bool = False

    def __str__(self) -> str:
        name = self.of if self.kind == "ref" else self.kind
        return f"optional({name})" if self.is_optional else name

    @property
    def plain(self) -> Type:
        """The type without `optional`."""
        return replace(self, is_optional=False)


TEXT, INT, MONEY, DATE, DAYS, FLAG, NONE = (
    Type("text"), Type("int"), Type("money"), Type("date"), Type("days"), Type("flag"),
    Type("none", is_optional=True),
)  # fmt: skip
SIMPLE = {"text": TEXT, "int": INT, "money": MONEY, "date": DATE, "days": DAYS, "flag": FLAG}


class ValueRefused(ValueError):
    """A value that is not of its type; the message says what it must be."""


def show(type_: Type, value: Any) -> Any:
    """Write a value as JSON holds it."""
    write = WRITERS.get(type_.kind)
    return value if value is None or write is None else write(value)


@lru_cache(maxsize=4096)
def show_date(day: int) -> str:
    """Write an ordinal as an ISO date."""
    return date.fromordinal(day).isoformat()


def show_days(days: tuple[int, int]) -> list[str]:
    """Write an interval as two ISO dates."""
    return [show_date(days[0]), show_date(days[1])]


def show_money(cents: int) -> str:
    """Write cents as a decimal with two places."""
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


WRITERS: dict[str, Callable[[Any], Any]] = {
    "money": show_money, "date": show_date, "days": show_days,
}  # fmt: skip
"""How the kinds are written whose values JSON does not hold as they are."""


def parse(type_: Type, value: Any) -> Any:
    """Read what an agent wrote; a reference is not looked up here.

    Raises:
        ValueRefused: The value is not of the type.
    """
    if value is None:
        if type_.is_optional:
            return None
        raise ValueRefused("is missing")
    return _PARSERS[type_.kind](type_, value)


def _text(type_: Type, value: Any) -> str:
    ok = isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
    if not ok or value != value.strip() or not any(c.isalnum() for c in value):
        raise ValueRefused(f"must be a text of 1 to {MAX_TEXT} printable characters")
    return value


def _int(type_: Type, value: Any) -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_NUMBER:
        value = int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_NUMBER:
        raise ValueRefused("must be a whole number")
    return value


def _money(type_: Type, value: Any) -> int:
    rule = "must be an amount with at most two decimals, such as 12.50"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _AMOUNT.fullmatch(value)):
        raise ValueRefused(rule)
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise ValueRefused(rule)
    try:
        amount = Decimal(str(value)) * 100
    except InvalidOperation:
        raise ValueRefused(rule) from None
    if not amount.is_finite() or abs(amount) > MAX_NUMBER or amount != int(amount):
        raise ValueRefused(rule)
    return int(amount)


def _date(type_: Type, value: Any) -> int:
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            day = date.fromisoformat(value).toordinal()
        except ValueError:
            day = 0
        if FIRST_DAY <= day <= LAST_DAY:
            return day
    raise ValueRefused("must be a date such as 2026-03-14")


def _flag(type_: Type, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueRefused("must be true or false")
    return value


def _option(type_: Type, value: Any) -> str:
    if not isinstance(value, str) or value not in type_.options:
        raise ValueRefused(f"must be {' or '.join(type_.options)}")
    return value


def _reference(type_: Type, value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueRefused(f"must be the id of a {type_.of.replace('_', ' ')}")
    return value


_PARSERS = {
    "text": _text, "int": _int, "money": _money, "date": _date, "flag": _flag, "enum": _option,
    "state": _option, "ref": _reference,
}  # fmt: skip


def json_schema(type_: Type, description: str) -> dict[str, Any]:
    """Return the JSON schema of one parameter."""
    if type_.kind in ("enum", "state"):
        return {"type": "string", "description": description, "enum": list(type_.options)}
    names = {"int": "integer", "money": "number", "flag": "boolean"}
    return {"type": names.get(type_.kind, "string"), "description": description}
