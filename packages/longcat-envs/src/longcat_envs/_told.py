"""Whether an agent told the person a value: said once, not denied, and seen in this episode.

A value is told when all of these hold:

- it stands in what the agent said as a whole word, and so does no other value of its type;
- the sentence that holds it neither denies, doubts nor bounds it, and is not a question;
- no later sentence takes it back;
- it came out of a tool's result in this episode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import Decimal

from ._chinese import COUNTED, FAREWELL, LABEL, counts
from ._doubts import asks, denying_names, is_denied, takes_back
from ._plain import plain
from ._sentences import sentences

MAX_DIGITS = 28
"""Digits that decimals are rounded to at most; longer numbers are compared as they are."""

Finder = Callable[[str], list[tuple[int, int, str]]]
"""From a sentence to the values of one type in it: where each begins and ends, and what it is."""

_FAREWELL = re.compile(
    r"[,\s–—-]{0,8}\b(?:and )?(?:is there )?(?:any|some)thing (?:else|more|further)\b[^.!?？]*[?？]",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,])[-−]?\d[\d,]*(?:\.\d+)?(?!\w|[.,]\d)")
_DATE = re.compile(r"(?<![\w-])(?:\d{4}-|--)\d{2}-\d{2}(?![\w-])")
"""ISO dates, those without a year too (`--03-05`)."""
_TIME = re.compile(r"(?<![\w:])\d{1,2}:\d{2}(?::\d{2})?(?!\w|:\d)")
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_ONES[1:10])}))?|({'|'.join(_ONES[2:])}|zero"
    r"|(?<=\bis )one|(?<=\bare )one|(?<=\bhave )one|(?<=\bonly )one|(?<=\bexactly )one))"
    r"(?! moment)(?!\w)",
    re.IGNORECASE,
)
"""Numbers in words; a `one` only where it counts."""
_COUNTED = re.compile(
    r" ?%| (?:nights?|days?|weeks?|months?|years?|hours?|minutes?|times?|items?|pieces?|people"
    r"|persons?|guests?)\b",
    re.IGNORECASE,
)


def by_pattern(pattern: str) -> Finder:
    """Find what matches a regular expression, as a whole word."""
    kind = re.compile(rf"(?<![\w.])(?:{pattern})(?!\w|[.,]\d)", re.IGNORECASE)

    def find(text: str) -> list[tuple[int, int, str]]:
        text = _DATE.sub(lambda m: " " * len(m[0]) if m[0][0] == "-" else m[0], text)
        text = _NUMBER.sub(lambda m: m[0].replace(",", "").ljust(len(m[0])), text)
        return [(m.start(), m.end(), m[0].casefold()) for m in kind.finditer(text)]

    return find


def numbers(*, places: int, exempt: Collection[str] = ()) -> Finder:
    """Find numbers, written to so many decimal places; dates, times and ids are none.

    Whole numbers are found in words too.

    Args:
        places: Decimal places of the canonical form.
        exempt: Numbers in canonical form that may be spoken of without being meant.
    """

    def find(text: str) -> list[tuple[int, int, str]]:
        days = [m.span() for kind in (_DATE, _TIME) for m in kind.finditer(text)]
        found: list[tuple[int, int, str]] = []
        if not places:
            words = [(m.start(), m.end(), _number_in_words(m)) for m in _WORDS.finditer(text)]
            found += [one for one in (*words, *counts(text)) if one[2] not in exempt]
        for match in _NUMBER.finditer(text):
            if any(start <= match.start() < end for start, end in days):
                continue
            if (
                places
                and "." not in match[0]
                and (_COUNTED.match(text, match.end()) or COUNTED.match(text, match.end()))
            ):
                continue  # two nights are no money
            if LABEL.match(text, match.end()):
                continue
            value = canonical_number(match[0], places)
            if value not in exempt:
                found.append((match.start(), match.end(), value))
        return found

    return find


def canonical_number(text: str, places: int) -> str:
    """Write a number as it is compared: `1,240.5` is `1240.50` with two places."""
    value = Decimal(text.replace(",", "").replace("−", "-"))
    if value.adjusted() + places >= MAX_DIGITS:
        return f"{value:f}"
    rounded = round(value, places)
    return f"{rounded:f}" if rounded == value else f"{value:f}"


def _number_in_words(match: re.Match[str]) -> str:
    tens, ones, plain_word = (part and part.lower() for part in match.groups())
    if plain_word:
        return str(_ONES.index(plain_word))
    return str(10 * (_TENS.index(tens) + 2) + (_ONES.index(ones) if ones else 0))


def dates(*, exempt: Collection[str] = (), year: str = "") -> Finder:
    """Find ISO dates other than the exempt ones.

    Args:
        exempt: Dates that may be spoken of without being meant.
        year: The year of dates that are said without one; empty to leave them out.
    """

    def find(text: str) -> list[tuple[int, int, str]]:
        found: list[tuple[int, int, str]] = []
        for match in _DATE.finditer(text):
            value = match[0]
            if value.startswith("--"):
                value = f"{year}{value[1:]}"
            if value not in exempt and not value.startswith("-"):
                found.append((match.start(), match.end(), value))
        return found

    return find


def told(
    said: str,
    wanted: Collection[str],
    find: Finder | str,
    seen: Collection[str],
    *,
    names: Collection[str] = (),
) -> dict[str, bool]:
    """Return for each wanted value of one type whether it was told.

    Args:
        said: All that the agent said to the person.
        wanted: The values of the type that are to be told.
        find: Finds every value of the type, or the regular expression of them all.
        seen: Every value that a tool's result held in this episode.
        names: What results call things, if `seen` does not say it.
    """
    finder = by_pattern(find) if isinstance(find, str) else find
    things = [plain(name) for name in denying_names(names or seen)]
    values = {value.casefold() for value in wanted}
    stated: set[str] = set()
    is_taken_back = False
    for sentence in sentences(FAREWELL.sub("。", _FAREWELL.sub(".", plain(said)))):
        spans = finder(sentence)
        found = {value for _, _, value in spans}
        if found - values or (found and is_denied(sentence, spans, things)):
            return dict.fromkeys(wanted, False)
        if found:
            if not asks(sentence):
                stated |= found
        elif takes_back(sentence, is_after=bool(stated)):
            is_taken_back = True
    known = {value.casefold() for value in seen}
    return {
        value: not is_taken_back and value.casefold() in stated and value.casefold() in known
        for value in wanted
    }


def says(text: str, value: str, find: Finder | str) -> bool:
    """Whether a value stands in a text, denied or not."""
    finder = by_pattern(find) if isinstance(find, str) else find
    return any(one == value.casefold() for _, _, one in finder(plain(text)))
