"""A sentence that does not matter, before or behind the request."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

from ._sentences import Sentences, before, behind

SENTENCES: Sentences = {
    "en": (
        "It is a busy day here.", "I hope you are well.", "Sorry for the trouble.",
        "My colleague told me to ask you.", "No hurry.",
    ),
    "zh": ("今天这里很忙。", "希望你一切都好。", "麻烦你了。", "同事让我来问你。", "不着急。"),
}  # fmt: skip


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Add a sentence."""
    put = before if draw("before", *name) < 0.5 else behind
    return put(text, SENTENCES, draw, name)


REDUNDANCY = UserKind(name="redundancy", is_explicit=False, survival="ignore", act=act)
