"""Whether an agent told the person a value: said once, not denied, and seen in this episode.

A value is told when all of these hold:

- it stands in what the agent said as a whole word, and so does no other value of its type;
- the sentence that holds it neither denies nor doubts it, and is not a question;
- no later sentence takes it back;
- it came out of a tool's result in this episode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import Decimal

from ._plain import plain

MAX_DIGITS = 28
"""Digits that decimals are rounded to at most; longer numbers are compared as they are."""

Finder = Callable[[str], list[tuple[int, int, str]]]
"""From a sentence to the values of one type in it: where each begins and ends, and what it is."""

_SENTENCE = re.compile(r"(?<=[.!?;。！？；])\s+|(?<=[。！？；])|\n+")
_IDIOM = re.compile(
    r"\b(?:no (?:problem|worr(?:y|ie)|trouble|change|issue)s?|not a problem|if not|not only"
    r"|(?:do not|don't) hesitate|no doubt|without (?:a )?doubt|not(?:hing)? else"
    r"|no (?:other|further|more|additional) \w+|not (?:\w+ )?any(?:thing)? (?:else|other)\b"
    r"|(?:not|n't) (?:change|touch|alter|modif)\w* any\w*)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|neither|nor|nothing|cannot|hardly|without|except|instead"
    r"|wrong|incorrect|inaccurate|untrue|false|unlikely|unknown|unsure|uncertain|unverified"
    r"|unconfirmed|mistaken|doubt\w*|dubious|guess\w*|deny|denied|suppos(?:ed|edly)|alleged(?:ly)?"
    r"|maybe|perhaps|possibly|probably|presumably|might|(?:may|could) (?:well )?be|unable|fail\w*"
    r"|rather than|other than|anything but|(?:any|some)(?:thing else| other)|far from|ruled out"
    r"|opposite|(?:is|was|are|were|do|does|did|has|have|had|can|could|would|should|wo|ai)n'?t"
    r"|a lie|(?:i|have) lied|lying|kidding|joking|a joke|pretend\w*|invent\w*|fake|fictional"
    r"|made (?:\w+ )?up|hypothetical\w*|used to be)\b|不是|没有|并非|不对|错",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"^\W*(?:(?:well|actually|sorry|oh|wait|hm+|but|and|or|oops|honestly|in fact|lol)\W+)*"
    r"(?:(?:no|not)\b(?=\W*$|\s*[,.!:;–—-]|\s+(?:it|that|this|wait|really|at all|true|correct"
    r"|right|so|quite|exactly)\b)|wrong\b|(?:the )?(?:above|opposite)\b"
    r"|it (?:is|was) not\b|it isn't\b|(?:that|this) (?:is|was) (?:not|n't)\b)",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(
    r"\b(?:that|this|it|these|those|everything|(?:the|my|that|this)(?: \w+){0,2} (?:number|figure"
    r"|amount|value|sum|total|price|answer|date|name|statement|sentence|message|information|above))"
    r"(?: i \w*(?: \w+)?)?(?:'s| is| was| are| were| may be| might be| could be)(?: \w+){0,2}? "
    r"(?:(?:a |an )?(?:lie|joke|guess|invention|mistake|error|fiction)|wrong|false|untrue"
    r"|incorrect|inaccurate|made up|invented|fake|mistaken|not (?:true|right|correct|so|real))\b"
    r"|\b(?:disregard|ignore|forget|discard|scratch) (?:that|this|it|the|what|my|everything|all)\b"
    r"|\b(?:do not|don't|never|cannot|can't) (?:\w+ )?(?:believe|trust|rely)\b"
    r"|\bi(?:'m| am| was| have been)(?: \w+){0,2}? (?:wrong|mistaken|lying|joking|kidding|guessing"
    r"|not (?:sure|certain)|unsure|uncertain)\b"
    r"|\bi (?:\w+ )?(?:lied|guessed|invented|made (?:\w+ ){1,3}up|misspoke|retract|withdraw"
    r"|take (?:that|it|this|everything) back|have no idea|(?:do not|don't) know(?= ?[.!]*$))"
    r"|\bjust kidding\b|\bon second thoughts?\b|\bthe opposite\b",
    re.IGNORECASE,
)
_AHEAD = re.compile(r"\b(?:next|follow\w*|below)\b", re.IGNORECASE)
_CONDITION = re.compile(r"\b(?:if|whether|in case|unless)\b.*", re.IGNORECASE | re.DOTALL)
_FAREWELL = re.compile(
    r"[,\s–—-]*\b(?:and )?(?:is there )?(?:any|some)thing (?:else|more|further)\b[^.!?？]*[?？]",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\d[-–]\0|\0[-–]\d|\bbetween (?:\S+ and \0|\0+ and\b)", re.IGNORECASE)
"""A value as one end of a range; values are masked by zeros."""
_QUESTION = re.compile(r"[?？]\W*$")
_NUMBER = re.compile(r"(?<![\w.,])[-−]?\d[\d,]*(?:\.\d+)?(?!\w|[.,]\d)")
_DATE = re.compile(r"(?<![\w-])\d{4}-\d{2}-\d{2}(?![\w-])")
_COUNTED = re.compile(
    r" ?%| (?:nights?|days?|weeks?|months?|years?|hours?|minutes?|times?|items?|pieces?|people"
    r"|persons?|guests?)\b",
    re.IGNORECASE,
)


def by_pattern(pattern: str) -> Finder:
    """Find what matches a regular expression, as a whole word."""
    kind = re.compile(rf"(?<![\w.])(?:{pattern})(?!\w|[.,]\d)", re.IGNORECASE)

    def find(text: str) -> list[tuple[int, int, str]]:
        text = _NUMBER.sub(lambda m: m[0].replace(",", "").ljust(len(m[0])), text)
        return [(m.start(), m.end(), m[0].casefold()) for m in kind.finditer(text)]

    return find


def numbers(*, places: int, exempt: Collection[str] = ()) -> Finder:
    """Find numbers, written to so many decimal places; dates and ids are none.

    Args:
        places: Decimal places of the canonical form.
        exempt: Numbers in canonical form that may be spoken of without being meant.
    """

    def find(text: str) -> list[tuple[int, int, str]]:
        dates = [(m.start(), m.end()) for m in _DATE.finditer(text)]
        found: list[tuple[int, int, str]] = []
        for match in _NUMBER.finditer(text):
            if any(start <= match.start() < end for start, end in dates):
                continue
            if places and "." not in match[0] and _COUNTED.match(text, match.end()):
                continue  # two nights are no money
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


def dates(*, exempt: Collection[str] = ()) -> Finder:
    """Find ISO dates other than the exempt ones."""
    return lambda text: [
        (m.start(), m.end(), m[0]) for m in _DATE.finditer(text) if m[0] not in exempt
    ]


def told(
    said: str, wanted: Collection[str], find: Finder | str, seen: Collection[str]
) -> dict[str, bool]:
    """Return for each wanted value of one type whether it was told.

    Args:
        said: All that the agent said to the person.
        wanted: The values of the type that are to be told.
        find: Finds every value of the type, or the regular expression of them all.
        seen: Every value that a tool's result held in this episode.
    """
    finder = by_pattern(find) if isinstance(find, str) else find
    names = {value.casefold() for value in wanted}
    stated: set[str] = set()
    is_taken_back = False
    for sentence in _SENTENCE.split(_FAREWELL.sub(".", plain(said))):
        spans = finder(sentence)
        found = {value for _, _, value in spans}
        if found - names or (found and _is_denied(sentence, spans)):
            return dict.fromkeys(wanted, False)
        if found:
            if not _QUESTION.search(sentence):
                stated |= found
        elif _takes_back(sentence, is_after=bool(stated)):
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


def _takes_back(sentence: str, *, is_after: bool) -> bool:
    """Whether a sentence without a value takes back one said before it, or just after it."""
    sentence = _CONDITION.sub("", _IDIOM.sub("", sentence))
    if is_after:
        return bool(_RETRACTION.match(sentence) or _TAKES_BACK.search(sentence))
    return bool(_AHEAD.search(sentence) and _DENIAL.search(sentence))


def _is_denied(sentence: str, spans: list[tuple[int, int, str]]) -> bool:
    """A denial counts unless a `but` stands between it and a value said after it."""
    marked = list(sentence)
    for start, end, _ in spans:
        marked[start:end] = ["\0"] * (end - start)
    text = _IDIOM.sub("", "".join(marked))
    if _RANGE.search(text):
        return True
    parts = re.split(r"\bbut\b|，?但", text, flags=re.IGNORECASE)
    holds = [part for part in parts if "\0" in part]
    if any(_DENIAL.search(part) for part in holds):
        return True
    return len(parts) > 1 and "\0" in parts[0] and _DENIAL.search(parts[-1]) is not None
