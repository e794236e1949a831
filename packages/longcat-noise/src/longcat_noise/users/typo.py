"""A slip in a word that is not spared: two letters swapped, or a sign that sounds alike."""

import re

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

_PAIRS = (
    "在再 再在 的得 得的 地的 做作 作做 那哪 哪那 他她 她他 已以 以已 是事 事是 要药 请情 把吧 吧把 帮邦 "
    "和合 我窝 有友 给跟 了乐 到道 号好 定订 订定 期其 新心 取去 改该 还换 没每 想相 知之 时是 后候"
)
ALIKE = {pair[0]: pair[1] for pair in _PAIRS.split()}
"""Signs that are taken for one another."""
_SLIPPERY = re.compile(r"[A-Za-z]{4,}|[\u3400-\u9fff]")


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Make one slip; a text without a free word stays as it is."""
    found = [
        (index, match)
        for index, (part, kept) in enumerate(spans.parts)
        if not kept
        for match in _SLIPPERY.finditer(part)
        if _can_slip(match.group())
    ]
    if not found:
        return text
    index, match = draw.choose(found, "typo-word", *name)
    part = spans.parts[index][0]
    slipped = _slip(match.group(), draw("typo-letter", *name))
    return spans.replace(index, part[: match.start()] + slipped + part[match.end() :])


def _can_slip(word: str) -> bool:
    return word in ALIKE if len(word) == 1 else len(set(word[1:])) > 1


def _slip(word: str, number: float) -> str:
    if len(word) == 1:
        return ALIKE[word]
    places = [at for at in range(1, len(word) - 1) if word[at] != word[at + 1]]
    at = places[int(number * len(places))]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


TYPO = UserKind(name="typo", is_explicit=True, survival="ignore", act=act)
