"""A literal said wrong and put right in the same breath; a text without one is taken back whole."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans, fold, join, language

from ._sentences import Sentences, before

SENTENCES: Sentences = {
    "en": ("No, let me start again.", "Wait, that came out wrong.", "Sorry, I will say it anew."),
    "zh": ("不对，我重新说。", "等等，说错了。", "抱歉，我再说一遍。"),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Say a near miss of one literal first, then the literal."""
    literals = {fold(literal) for literal in spans.literals}
    places = [
        (index, part, wrong)
        for index, (part, kept) in enumerate(spans.parts)
        if kept and (wrong := _near_miss(part)) and fold(wrong) not in literals
    ]
    if not places:
        return before(text, SENTENCES, draw, name)
    index, right, wrong = draw.choose(places, "slip", *name)
    said = spans.replace(index, wrong)
    if language(text) == "zh":
        return join(said, f"抱歉，不是{wrong}，是{right}。")
    return join(said, f"Sorry, not {wrong} but {right}.")


def _near_miss(literal: str) -> str:
    """Return a literal with its last two different neighbours swapped; empty if it has none."""
    for at in range(len(literal) - 2, -1, -1):
        first, second = literal[at], literal[at + 1]
        if first.isalnum() and second.isalnum() and fold(first) != fold(second):
            return literal[:at] + second + first + literal[at + 2 :]
    return ""


CORRECTION = UserKind(name="correction", is_explicit=True, survival="ignore", act=act)
