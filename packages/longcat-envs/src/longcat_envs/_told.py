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

Finder = Callable[[str], list[tuple[int, int, str]]]
"""From a sentence to the values of one type in it: where each begins and ends, and what it is."""

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\n+")
_IDIOM = re.compile(
    r"\b(?:no (?:problem|worries|trouble)|not a problem|(?:do not|don't) hesitate"
    r"|not only|no doubt|without (?:a )?doubt|if not)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|neither|nor|nothing|cannot|hardly|without|except|instead"
    r"|wrong|incorrect|untrue|false|unlikely|unknown|unsure|uncertain|doubt\w*|guess\w*|deny|denied"
    r"|maybe|perhaps|possibly|might|unable|fail\w*|rather than|other than|anything but"
    r"|(?:is|was|are|were|do|does|did|has|have|had|can|could|would|should|wo)n'?t"
    r"|i lied|was lying|kidding|joking|used to be)\b|不是|没有|并非|不对|错",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"^\W*(?:no\b|not\b|wrong|scratch that|ignore (?:that|this|the)|that (?:is|was) (?:a lie|wrong"
    r"|not|false|untrue|incorrect)|this is (?:not|wrong|false|untrue|incorrect)|it (?:is|was) not"
    r"|it isn't|just kidding|i (?:lied|made (?:that|this|it) up)|(?:the )?(?:above|opposite))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,])[-−]?\d[\d,]*(?:\.\d+)?(?!\w|[.,]\d|-\d)")
_DATE = re.compile(r"(?<![\w-])\d{4}-\d{2}-\d{2}(?![\w-])")


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
            value = canonical_number(match[0], places)
            if value not in exempt:
                found.append((match.start(), match.end(), value))
        return found

    return find


def canonical_number(text: str, places: int) -> str:
    """Write a number as it is compared: `1,240.5` is `1240.50` with two places."""
    value = Decimal(text.replace(",", "").replace("−", "-"))
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
    for sentence in _SENTENCE.split(said.replace("’", "'")):
        spans = finder(sentence)
        found = {value for _, _, value in spans}
        if found - names:
            return dict.fromkeys(wanted, False)
        if found:
            if _is_denied(sentence, spans):
                return dict.fromkeys(wanted, False)
            if not sentence.rstrip().endswith(("?", "？")):
                stated |= found
        elif stated and _RETRACTION.match(_IDIOM.sub("", sentence)):
            is_taken_back = True
    known = {value.casefold() for value in seen}
    return {
        value: not is_taken_back and value.casefold() in stated and value.casefold() in known
        for value in wanted
    }


def _is_denied(sentence: str, spans: list[tuple[int, int, str]]) -> bool:
    """A denial counts unless a `but` stands between it and a value said after it."""
    marked = list(sentence)
    for start, end, _ in spans:
        marked[start:end] = ["\0"] * (end - start)
    text = _IDIOM.sub("", "".join(marked))
    parts = re.split(r"\bbut\b|，?但", text, flags=re.IGNORECASE)
    holds = [part for part in parts if "\0" in part]
    if any(_DENIAL.search(part) for part in holds):
        return True
    return len(parts) > 1 and "\0" in parts[0] and _DENIAL.search(parts[-1]) is not None
