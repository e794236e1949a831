r"""Ways of saying a value without telling it: of another time, on a condition, as an example.

Values are marked: `\0` stands for one with digits, `\1` for one without.
"""

from __future__ import annotations

import re

_AMOUNT = r"(?:(?:EUR|USD|GBP|CHF|[€$£]) ?)?[\0\1]+"
_AFTER = r"[\0\1](?: ?(?:EUR|USD|GBP|CHF|[€$£]|euros?|dollars?)(?!\w))?"
_SPAN = r"(?:hours?|days?|weeks?|months?|years?)"
_NEXT = rf"(?:next|last) (?:{_SPAN}|time|\w+day)"
_THEN = (
    rf"(?:yesterday|tomorrow|soon|later|originally|initially|at first|back (?:then|in \w+)|{_NEXT}"
    r"|at (?:the time|one point)|one day|eventually|there was a time when"
    rf"|(?:a|an|one|two|three|some|few) (?:few )?{_SPAN} ago|in (?:a|one|two|three|some) {_SPAN})"
    r"(?!')\b"
)
_BY = rf"by (?:then|tomorrow|\w+day|{_NEXT}|the end of [\w ]{{1,20}}?)\b"
_IS = r"(?:is|was|were|be|been|stands?|stood|comes?|came|had|has|costs?|owes?|owed)"
OF_ANOTHER_TIME = re.compile(
    rf"(?:^|[,;:]|\bbut|\band)\W{{0,4}}(?:{_THEN}|{_BY}),? "
    rf"(?:[\w']+ ){{0,5}}?{_IS}(?: [\w']+){{0,2}} ?"
    rf"{_AMOUNT}"
    rf"|(?:\b{_IS}(?: at)? |^[^\w\0\1]*){_AMOUNT}[^,;.\0\1]{{0,12}} {_THEN}"
    rf"|(?:\b(?:will|shall)|'ll) (?:soon|eventually|one day|some day|in time) be\b"
    rf"|\bhad been ?{_AMOUNT}|\bwas once ?{_AMOUNT}|\bonce (?:it|this|that) was ?{_AMOUNT}"
    rf"|\bhas been {_AMOUNT} before\b|^\W*(?:soon|later|eventually|one day)\W+{_AMOUNT}",
    re.IGNORECASE,
)
"""`Tomorrow it is`, `it was ... at first`, `it had been`; not `tomorrow's stay costs`."""
_PRESENT = r"(?:[\w']+ ){1,3}?(?:comes?|clears?|arrives?|goes|lands?|is|are|gets?|has|have)\b"
_COSTS = r"(?:fees?|charges?|tax(?:es)?|vat|interest|deductions?|adjustments?|discounts?|costs?)\b"
ON_A_CONDITION = re.compile(
    rf"{_AFTER} (?:once|as soon as|until|till|if|unless|provided|assuming|whenever|subject to"
    rf"|as long as|(?:when|after|before) {_PRESENT}"
    rf"|before (?:(?:any|the|all|your|further) )?{_COSTS}"
    rf"|less (?:\d|the|a|any)\b|and (?:add|subtract|deduct)\b|pending (?:a |the )?\w+(?=\W*$)"
    r"|on a good day|at (?:the )?(?:earliest|latest|worst|best)(?=\W*$)|in the worst case"
    r"|and then some|eventually|(?:one|some) day\b"
    r"|when the time)"
    rf"|{_AFTER}, (?:less (?:\d|the|a|any)\b|subject to|assuming|pending (?:a |the )?\w+(?=\W*$))",
    re.IGNORECASE,
)
"""`... once the payment clears`, `... before the fee`, `... less the fee`."""
AS_AN_EXAMPLE = re.compile(
    rf"(?:\b(?:such as|(?:some|any)thing like|(?:feels|looks|sounds) like)"
    rf"|\b(?:sort|kind) of|\bcall it"
    rf"|(?:^|[,;:])\W{{0,4}}(?:say(?: it is)?,?|try|picture)) ?{_AMOUNT}"
    rf"|{_AFTER}[^,;.\0\1]{{0,12}},? or (?:something|whatever|so|similar)\b"
    rf"|{_AFTER} (?:sounds|looks|feels)\b|{_AFTER}\W{{0,4}}\b(?:lol|lmao|haha)\b"
    rf"|{_AFTER} (?:would|could|might) (?:do|work|be)\b|{_AFTER} is (?:just |only )?a number\b"
    rf"|{_AFTER} for (?:other|another|most|some|every(?:body|one)|some(?:body|one))\b"
    rf"|\bexpect ?{_AMOUNT}|{_AFTER}[^,;.\0\1]{{0,12}} (?:is|was) (?:just |only )?an? "
    r"(?:dummy|example|test|sample|made-up|random)\b"
    r"|\b(?:sample|test|dummy|example) (?:answer|value|number|figure|output)\b"
    rf"|\b(?:should|must|ought to|may|might|could) (?:\w+ )?(?:be|come|amount|have been|total)"
    rf"(?: \w+){{0,2}} ?{_AMOUNT}",
    re.IGNORECASE,
)
"""`Something like ...`, `... or whatever`, `it must have been ...`."""
DOUBT = re.compile(
    r"\b(?:to the best of my|from what i (?:can tell|gather|hear|recall|remember)|my understanding"
    r"|likelihood|odds are|chances are|god willing"
    r"|(?:pretty|fairly|almost|nearly|reasonably) (?:sure|certain|confident)|one could say"
    r"|more or less|plus or minus|i(?:'m| am| was) told|i heard (?:it|that)|word is|to my mind"
    r"|in my (?:opinion|view|book|experience)|(?:perfect|ideal) world|with (?:any |some )?luck"
    r"|fingers crossed|meant to be|if i(?:'m| am) (?:right|not)|if you ask me|i dream\w+"
    r"|(?:random|lucky) number|the average|typical (?:value|number|amount)|who knows"
    r"|last (?:time )?(?:i|we) (?:looked|checked|saw|heard)|when (?:i|we) last|as (?:if|though)\b"
    r"|reportedly|supposedly|theoretically|in theory|suppose|imagine"
    r"|usually|normally|typically|on average|generally speaking|roughly|rounded|ballpark"
    r"|provisional(?:ly)?|tentative(?:ly)?|if only|in my head|(?:it|this|that) were"
    r"|(?:is|are|was) (?:said|thought|believed|rumou?red|expected|estimated|projected|forecast) "
    r"(?:to|at)|expect (?:it|this|that) (?:to|will)|(?:the|my|our) (?:forecast|projection|guess)"
    r"|(?:estimated|projected|expected|approximate) (?:balance|total|amount|price|value|figure"
    r"|number|sum|cost|date)|(?:hope|wish|pray) (?:that )?(?:it|this|the \w+) (?:is|was|were|comes)"
    r"|hopefully(?! (?:this|that|it) (?:helps|answers))|(?:some|any)(?:one|body)'s)\b",
    re.IGNORECASE,
)
"""Words of hope, hearsay and estimate."""
_SCOFF = re.compile(
    r"^\W*(?:as if|yeah,? right|lol|lmao|just kidding|kidding|psych)\W*$", re.IGNORECASE
)
_STATED = r"(?:tru\w+|right|correct|real|actual|figure|number|answer|value|amount)"
CONTRAST = re.compile(
    rf"\b(?:rather than|instead of) (?!(?:[\w']+ ){{0,9}}?{_STATED}\b)[^,;.:\0\1]{{1,80}}?"
    r"(?=$|[,;.:]|\band\b)"
    r"|\b(?:goes|went|gone|comes?|came|rose|risen|brings it|brought it|moved) up to\b",
    re.IGNORECASE,
)
"""A contrast with something that is no value: `paid rather than being unpaid`; a rise."""


def is_hedged(text: str) -> bool:
    """Whether a marked value is said of another time, on a condition or as an example."""
    return any(one.search(text) for one in (OF_ANOTHER_TIME, ON_A_CONDITION, AS_AN_EXAMPLE))


def scoffs(sentence: str) -> bool:
    """Whether a sentence says, before or after a value, that it was not meant."""
    return _SCOFF.match(sentence) is not None
