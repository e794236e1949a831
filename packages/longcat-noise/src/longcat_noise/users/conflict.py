"""A wish that contradicts the request, taken back in the same turn."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

from ._sentences import Sentences, before

SENTENCES: Sentences = {
    "en": (
        "Please do nothing for me today. No, I have changed my mind, do this:",
        "Leave everything as it is. On second thoughts, please do:",
        "Forget what I wanted. No, it stands:",
    ),
    "zh": (
        "今天什么都别做。不，我改主意了，请这样：",
        "一切保持原样吧。再想想，还是请：",
        "别管我要什么了。不，还是要：",
    ),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Add the sentence."""
    return before(text, SENTENCES, draw, name)


CONFLICT = UserKind(name="conflict", is_explicit=True, survival="ignore", act=act)
