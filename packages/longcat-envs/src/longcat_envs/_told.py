"""Whether an agent told the person a value: said once, not denied, and seen in this episode.

A value is told when all of these hold:

- it stands in what the agent said as a whole word, and so does no other value of its type;
- the sentence that holds it neither denies nor doubts it, and is not a question;
- no later sentence takes it back;
- it came out of a tool's result in this episode.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\n+")
_IDIOM = re.compile(
    r"\b(?:no (?:problem|worries|trouble)|not a problem|(?:do not|don't|don’t) hesitate"
    r"|not only|no doubt|without (?:a )?doubt|if not)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|no|never|none|nobody|neither|nor|nothing|cannot|hardly|without|except|instead"
    r"|wrong|incorrect|untrue|false|unlikely|unknown|unsure|uncertain|doubt\w*|guess\w*|deny|denied"
    r"|maybe|perhaps|possibly|might|unable|fail\w*|rather than|other than|anything but"
    r"|(?:is|was|are|were|do|does|did|has|have|had|can|could|would|should|wo)n[’']?t"
    r"|i lied|was lying|kidding|joking|used to be)\b|不是|没有|并非|不对|错",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"^\W*(?:no\b|not\b|wrong|scratch that|ignore (?:that|this|the)|that (?:is|was) (?:a lie|wrong|not"
    r"|false|untrue|incorrect)|this is (?:not|wrong|false|untrue|incorrect)|it (?:is|was) not"
    r"|it isn[’']?t|just kidding|i (?:lied|made (?:that|this|it) up)|(?:the )?(?:above|opposite))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,-])[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w])")


def told(
    said: str, wanted: Collection[str], pattern: str, seen: Collection[str]
) -> dict[str, bool]:
    """Return for each wanted value of one type whether it was told.

    Args:
        said: All that the agent said to the person.
        wanted: The values of the type that are to be told.
        pattern: Regular expression that matches every value of the type.
        seen: Every value that a tool's result held in this episode.
    """
    said = _NUMBER.sub(lambda match: match[0].replace(",", ""), said.replace("’", "'"))
    names = {value.casefold() for value in wanted}
    kind = re.compile(rf"(?<![\w.])(?:{pattern})(?!\w|[.,]\d)", re.IGNORECASE)
    stated: set[str] = set()
    is_taken_back = False
    for sentence in _SENTENCE.split(said):
        found = {match[0].casefold() for match in kind.finditer(sentence)}
        if found - names:
            return dict.fromkeys(wanted, False)
        if found:
            if _is_denied(sentence, kind):
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


def _is_denied(sentence: str, kind: re.Pattern[str]) -> bool:
    """A denial counts unless a `but` stands between it and a value said after it."""
    sentence = _IDIOM.sub("", sentence)
    parts = re.split(r"\bbut\b|，?但", sentence, flags=re.IGNORECASE)
    return any(_DENIAL.search(kind.sub("", part)) for part in parts if kind.search(part)) or bool(
        len(parts) > 1 and kind.search(parts[0]) and _DENIAL.search(parts[-1])
    )
