"""Texts as they are compared: one form for numbers, dates and marks, whoever wrote them.

1.240,50   1 240.50   1'240.50   EUR1240.50      1240.50, apart from its currency
5 March 2026   March 5th, 2026   05.03.2026      2026-03-05
5 March                                          --03-05
05/03/2026                                       2026-03-05 2026-05-03, as it may be either
minus 90.00                                      -90.00
_Oslo_   Os<zero-width space>lo   full width     Oslo
~~Oslo~~                                         not Oslo
3月5日                                           --03-05, set apart from what is around it
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ._chinese import marks, set_apart

_INVISIBLE = re.compile("[\0-\x08\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_GAP = re.compile("(?<=\\d)[\u00a0\u2009\u202f'\u2019](?=\\d{3}(?!\\d))")
_STRUCK = re.compile(r"~~|</?(?:s|del|strike)>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z]\w* ?/?>", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")
_STARS = re.compile(r"(?<=\S)\*+|\*+(?=\S)")
_SPACES = re.compile(r"[^\S\n]{2,}")
_LINES = re.compile(r"\n\s+")
_HYPHENS = str.maketrans("\u2010\u2011\u2012", "---")
_MINUS = re.compile(r"\b(?:minus|negative) (?=[€$£¥]? ?\d)", re.IGNORECASE)
_CODE = r"(?:EUR|USD|GBP|CHF|PLN|CZK|CNY|RMB|euros?|dollars?)"
_SIGN = re.compile(r"(?<![\w.,])([-−])([€$£¥])(?=\d)")
_BEFORE = re.compile(rf"(?<!\w)({_CODE})(?=[-−]?\d)", re.IGNORECASE)
_BEHIND = re.compile(rf"(?<=\d)(?={_CODE}\b)", re.IGNORECASE)
_SPACED = re.compile(r"(?<![\w.,-])\d{1,3}(?: \d{3})+(?=[.,]\d{2}(?!\d))")
_COMMA = re.compile(r"(?<![\w.,])(\d{1,3}(?:\.\d{3})+|\d+),(\d{1,2})(?!\w|[.,]\d)")
_DOTS = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?!\w|[.,]\d)")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_NTH = r"(\d{1,2})(?:st|nd|rd|th)?"
_DAY_FIRST = re.compile(
    rf"(?<![\w.,]){_NTH}(?: of)?[ -]{_MONTH}(?:,?[ -](\d{{4}}))?(?!\w)", re.IGNORECASE
)
_MONTH_FIRST = re.compile(rf"\b{_MONTH} {_NTH}(?:,? (\d{{4}}))?(?![\w]|[.,]\d)", re.IGNORECASE)
_YEAR_FIRST = re.compile(r"(?<![\w./-])(\d{4})([-–/.])(\d{1,2})\2(\d{1,2})(?![\w/-])")
_YEAR_LAST = re.compile(r"(?<![\w./-])(\d{1,2})([/.])(\d{1,2})\2(\d{4})(?![\w/-])")
_CLOCK = re.compile(
    r"(?<![\w-])(\d{4}-\d{2}-\d{2})T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?(?!\w)"
)


@lru_cache(maxsize=128)
def plain(text: str) -> str:
    """Write a text in the form in which values are looked for."""
    text = unicodedata.normalize("NFKC", marks(_GAP.sub("", _INVISIBLE.sub("", text))))
    text = _STRUCK.sub(" not ", text.translate(_HYPHENS).replace("\u2019", "'"))
    text = _SPACES.sub(" ", _TAG.sub(" ", _EMPHASIS.sub(" ", _STARS.sub("", text))))
    text = _CLOCK.sub(r"\1", set_apart(_LINES.sub("\n", text)))
    text = _YEAR_FIRST.sub(lambda m: f"{m[1]}-{int(m[3]):02}-{int(m[4]):02}", text)
    text = _YEAR_LAST.sub(lambda m: _day_or_month_first(m[1], m[3], m[4], m[2]), text)
    text = _DAY_FIRST.sub(lambda m: _date(m[1], m[2], m[3]), text)
    text = _MONTH_FIRST.sub(lambda m: _date(m[2], m[1], m[3]), text)
    text = _MINUS.sub("-", text)
    text = _BEHIND.sub(" ", _BEFORE.sub(r"\1 ", _SIGN.sub(r"\2 \1", text)))
    text = _SPACED.sub(lambda m: m[0].replace(" ", ""), text)
    text = _COMMA.sub(lambda m: f"{m[1].replace('.', '')}.{m[2]}", text)
    return _DOTS.sub(lambda m: m[0].replace(".", ""), text)


def _date(day: str, month: str, year: str | None) -> str:
    """Write a date in ISO form, without its year as `--03-05`."""
    return f"{year or '-'}-{_MONTHS.index(month[:3].lower()) + 1:02}-{int(day):02}"


def _day_or_month_first(first: str, second: str, year: str, mark: str) -> str:
    """Write a date of numbers in ISO form; with slashes either may be the month."""
    orders = {(int(first), int(second)), (int(second), int(first))}
    if mark == ".":
        orders = {(int(first), int(second))}
    return (
        " ".join(f"{year}-{m:02}-{d:02}" for d, m in sorted(orders) if m <= 12) or f"{year}-00-00"
    )
