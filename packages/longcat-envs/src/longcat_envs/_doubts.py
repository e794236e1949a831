"""Which sentences deny or doubt the values that they hold, ask for them, or take them back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from . import _chinese as chinese
from ._hedges import CONTRAST, DOUBT, is_hedged, scoffs

_IDIOM = re.compile(
    r"\b(?:no (?:problem|worr(?:y|ie)|trouble|change|issue)s?|not a problem|if not|not only"
    r"|(?:do not|don't) hesitate|no doubt|without (?:a )?doubt|not(?:hing)? else"
    r"|nothing (?:more|further)(?: to \w+)?|no more,? (?:and )?no less"
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
    r"|made (?:\w+ )?up|hypothetical\w*|used to be|would be|would have been|had it been"
    r"|seem(?:s|ed|ingly)?"
    r"|appears? to|apparently|likely|a chance|(?:the|my|an) estimate|refuse to|wonder(?:ing|ed)?"
    r"|(?:some|any)(?:one|body) else|psych|assum\w+|(?:i|we) (?:\w+ )?(?:think|believe|reckon"
    r"|suspect|imagine|would say)|let us say|let's say|(?:they|he|she|people|some) claims?"
    r"|correct me|(?:should|ought to|must) (?:\w+ )?be(?=\W*\0)|what it (?:should|ought to|must) be"
    r"|placeholder|for (?:example|instance)|let it be|(?:my|i) bet|tbc|tbd|to be (?:confirmed"
    r"|checked)|legend|rumou?r\w*|hearsay|read somewhere|(?:if|from) memory(?: serves)?"
    r"|(?:ignore|disregard|forget) (?:it|that|this)|off the top of my head"
    r"|as far as i|i (?:recall|remember)|afaik|iirc|(?:some|many|others|people|they) (?:say"
    r"|believe)"
    r"|said (?:no|every|some)\w* ever|in your dreams|yeah,? right|outdated|formerly"
    r"|previously|used to (?:be|read|say)|no longer|(?:old|previous|former|original"
    r"|initial) (?:\w+ )?(?:balance|total"
    r"|amount|price|value|figure|number|sum|rate|cost|date)|before (?:i|we)\b|everything but"
    r"|all but)\b|[≠✗✘❌✖👎🚫]|!=|\be\.g\.|(?:^|\s)/s\b|^\W*error\b",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"^\W*(?:(?:well|actually|sorry|oh|wait|hm+|but|and|or|oops|honestly|in fact|lol)\W+)*"
    r"(?:(?:no|not)\b(?=\W*$|\s*[,.!:;–—-]|\s+(?:it|that|this|wait|really|at all|true|correct"
    r"|right|so|quite|exactly)\b)|wrong\b|(?:the )?(?:above|opposite)\b"
    r"|it (?:is|was) not\b(?! (?:possible|allowed|necessary|needed)\b)|it isn't\b"
    r"|(?:that|this) (?:is|was) (?:not|n't)\b"
    r"|(?:\w+\W+){0,2}(?:nope|nah|false|untrue|incorrect|kidding|negative|psych)\W*$)",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(
    r"\b(?:that|this|it|these|those|everything|(?:the|my|that|this)(?: \w+){0,2} (?:number|figure"
    r"|amount|value|sum|total|price|answer|date|name|statement|sentence|message|information|above))"
    r"(?: i \w*(?: \w+)?)?(?:'s| is| was| are| were| may be| might be| could be)(?: \w+){0,2}? "
    r"(?:(?:a |an )?(?:lie|joke|guess|invention|mistake|error|fiction)|wrong|false|untrue"
    r"|incorrect|inaccurate|made up|invented|fake|mistaken|not (?:true|right|correct|so|real)"
    r"|(?:something|somebody|someone) else(?:'s)?|(?:another|different)(?: \w+)?(?=\W*$))\b"
    r"|\b(?:everything|all|what|anything|whatever)(?: \w+){1,3} (?:is|was)(?: \w+){0,2}? (?:a lie"
    r"|wrong|false|untrue|incorrect|made up|invented|nonsense|not (?:true|right|correct))\b"
    r"|\b(?:nothing|none)(?: \w+){1,3} (?:is|was) (?:true|right|correct)\b"
    r"|\bthe (?:real|actual|true|right|correct) (?:\w+ )?(?:is|was) (?:\w+ )?(?:higher|lower|more"
    r"|less|different|another|unknown)\b|\b(?:do not|don't) take (?:my|that|this|it)\b"
    r"|\bi (?:did not|didn't|have not|haven't|never) (?:\w+ )?(?:check|look|verif|confirm)\w*"
    r"|\b(?:disregard|ignore|forget|discard|scratch) (?:that|this|it|the|what|my|everything|all)\b"
    r"|\b(?:do not|don't|never|cannot|can't) (?:\w+ )?(?:believe|trust|rely)\b"
    r"|\bi(?:'m| am| was| have been)(?: \w+){0,2}? (?:wrong|mistaken|lying|joking|kidding|guessing"
    r"|not (?:sure|certain)|unsure|uncertain)\b"
    r"|\bi (?:\w+ )?(?:lied|guessed|invented|made (?:\w+ ){1,3}up|misspoke|retract|withdraw"
    r"|take (?:that|it|this|everything) back|have no idea|(?:do not|don't) know(?= ?[.!]*$))"
    r"|\b(?:or (?:is|was) it(?=\W*$)|gotcha|april fools?|bluff\w*|quote me on|shot in the dark"
    r"|vouch for|(?:grain|pinch) of salt|thin air|tongue in cheek|sarcas\w*|pulling your leg|hoax"
    r"|prank|as if(?=\W*$)|haha\W+no)\b"
    r"|\bjust kidding\b|\bon second thoughts?\b|\bthe opposite\b",
    re.IGNORECASE,
)
_AHEAD = re.compile(r"\b(?:next|follow\w*|below)\b", re.IGNORECASE)
_CONDITION = re.compile(r"(?<!\bas )\b(?:if|whether|in case|unless)\b.*", re.IGNORECASE | re.DOTALL)
_NUMBER, _WORD = "\0", "\1"
"""What stands for a value with digits, and for one without: a table is under somebody's name."""
_RANGE = re.compile(r"\d[-–]\0|\0[-–]\d|\bbetween (?:\S+ and \0|\0+ and\b)", re.IGNORECASE)
"""A number as one end of a range."""
_BOUND = re.compile(
    r"(?:\b(?:about|around|roughly|approximately|approx\.?|circa|nearly|almost|over|under|above"
    r"|below|(?:everything|all|anything) but|up to|as (?:much|little|many|high|low) as"
    r"|at (?:most|best)|max(?:imum|\.)?|min(?:imum|\.)?"
    r"|in the (?:region|ballpark|order|vicinity|neighbou?rhood) of|order of|(?:north|south"
    r"|upwards|shy"
    r"|short) of|(?:more|less|higher|lower|greater|fewer) than|at least|close to|differ\w* from"
    r"|apart from|besides|double|twice|triple|half(?: of)?|(?:if|whether|unless)\b[^,\0]{0,99})"
    r"|[~≈±]|(?<![-=])[<>])\s*(?:[€$£]|[A-Z]{3}\b)?\s*\0"
    r"|\0 ?(?:(?:k|m|thousand|million|billion|cents?|percent|-?ish|,? or so|,? (?:or|more or) less"
    r"|,? or (?:more|thereabouts)|,? give or take)\b|[±%])"
    r"|\0 (?:[A-Z]{3} |euros? |dollars? )?(?:plus|minus|times|multiplied|and change|off\b"
    r"|or more)\b"
    r"|\0[^.,;:\0]{0,12} (?:yesterday|tomorrow|last (?:week|month|year)|next (?:week|month|year))\b"
    r"|\0-(?:something|odd|plus)\b",
    re.IGNORECASE,
)
"""A number that is a bound, an estimate, a condition or a part of a sum."""
_COSTS = (
    r"(?:fees?|charges?|tax(?:es)?|vat|interest|tips?|discounts?|deposits?|penalt(?:y|ies)|costs?"
    r"|surcharges?|commissions?|postage|shipping|breakfast|extras|rebates?|refunds?|insurance"
    r"|fines?)"
)
_NO_COSTS = (
    r"(?:(?:with )?no|without|not (?:including|counting)|free of) (?:(?:any|the|further|additional"
    r"|extra|late|hidden|other|cancellation|service|handling|booking) )*"
    rf"{_COSTS}(?: (?:and|or) {_COSTS})?"
    r"(?: (?:is|was|are|were|appl(?:y|ies)|included|added|charged|due|taken|deducted|yet))*"
)
_ASIDE = re.compile(
    rf"(?<=\0)((?: ?(?:[€$£¥]|[A-Z]{{3}}\b|euros?\b|dollars?\b))?)"
    rf"(?: ?[(\[] ?{_NO_COSTS} ?[)\]]|, {_NO_COSTS}(?= ?[.,;!]| ?$))",
    re.IGNORECASE,
)
"""What an amount comes without, beside it: `1240.50 (no fee)`; it denies nothing."""
_VERBS = (
    r"(?:cancel|chang|mov|book|settl|clos|open|paid|pay|charg|refund|reschedul|remov|add|touch"
    r"|alter"
    r"|modif|extend|renew|send|sent|return|approv|collect|deliver|reserv|withdraw|deposit|transfer"
    r"|start|begun|possible|allowed|due)\w*"
)
_ELSEWHERE = re.compile(
    r"(?:^|(?<=[,;])|(?<=\band\b))(?P<clause>[^,;.\0\1]{0,200}?(?:\bno (?:\w+ ){1,3}?(?:was|were|is"
    r"|are|has|have)"
    r"|\b(?:is|was|are|were|has|have|had|could|can|did|does|do|will)(?: not|n't)|\bcannot"
    r"|\b(?:un)?able to)"
    rf"(?: (?:yet|been|be|being|have|get|to))* {_VERBS}(?! and)[^,;.\0\1]*?)(?=$|[,;.]|\band\b)",
    re.IGNORECASE,
)
"""A clause without a value that denies an act of its own: `the bill is not settled yet`."""
_OF_THE_VALUE = re.compile(
    r"\b(?:it|its|that|this|these|those|which|what|if|whether|unless|had|would|until|before|answer"
    r"|figure|number|message|statement|says?|said|true|right|correct|sure)\b|[?]",
    re.IGNORECASE,
)
_BUT = re.compile(r"\bbut\b", re.IGNORECASE)
_QUESTION = re.compile(
    r"[?？؟¿][^\w?？؟¿]*$|^\W*(?:(?:is|was|are|were) (?:it|that|this|the|your)|(?:do|did) you"
    r"|(?:could|can|might|may) (?:it|that|this) be|does|doesn't)\b",
    re.IGNORECASE,
)


def asks(sentence: str) -> bool:
    """Whether a sentence is a question."""
    return _QUESTION.search(sentence) is not None or chinese.asks(sentence)


def takes_back(sentence: str, *, is_after: bool) -> bool:
    """Whether a sentence without a value takes back one said before it, or just after it."""
    if chinese.takes_back(sentence) if is_after else chinese.warns(sentence):
        return True
    if scoffs(sentence):
        return True
    sentence = _CONDITION.sub("", _IDIOM.sub("", sentence))
    if is_after:
        return bool(_RETRACTION.match(sentence) or _TAKES_BACK.search(sentence))
    return bool(_AHEAD.search(sentence) and _DENIAL.search(sentence))


def denying_names(names: Iterable[str]) -> list[str]:
    """Return the names of several words that sound like denials, such as `A Table for Nobody`.

    In Chinese these are names of two signs and more, such as `无锡`.
    """
    return [
        name for name in names
        if (" " in name and _doubts(name)) or (len(name) > 1 and chinese.denies(name))
    ]  # fmt: skip


def is_denied(sentence: str, spans: list[tuple[int, int, str]], names: Iterable[str] = ()) -> bool:
    """Whether a sentence denies, doubts or only bounds the values at `spans`.

    A denial counts unless a `but` stands between it and a value said after it.

    Args:
        sentence: One sentence.
        spans: Where values are in it.
        names: What is no denial: names of things.
    """
    marked = list(sentence)
    for start, end, _ in spans:
        mark = _NUMBER if any(c.isdigit() for c in sentence[start:end]) else _WORD
        marked[start:end] = [mark] * (end - start)
    text = "".join(marked)
    for name in names:
        text = re.sub(re.escape(name), "it", text, flags=re.IGNORECASE)
    text = _ELSEWHERE.sub(_unless_of_the_value, _ASIDE.sub(r"\1", text))
    text = chinese.without_idioms(_IDIOM.sub("", CONTRAST.sub(" ", text)))
    if is_hedged(text) or _RANGE.search(text) or _BOUND.search(text) or chinese.is_bounded(text):
        return True
    parts = [part for half in _BUT.split(text) for part in chinese.parts(half)]
    holds = [_NUMBER in part or _WORD in part for part in parts]
    if any(held and _denies(part) for part, held in zip(parts, holds, strict=True)):
        return True
    return len(parts) > 1 and holds[0] and _denies(parts[-1])


def _unless_of_the_value(match: re.Match[str]) -> str:
    return match[0] if _OF_THE_VALUE.search(match["clause"]) else " "


def _denies(text: str) -> bool:
    return _doubts(text) or chinese.denies(text)


def _doubts(text: str) -> bool:
    return _DENIAL.search(text) is not None or DOUBT.search(text) is not None
