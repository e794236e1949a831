"""A slip of memory before the request: the user does not recall, then does."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

from ._sentences import Sentences, before

SENTENCES: Sentences = {
    "en": (
        "I am not sure I remember this rightly. Yes, here it is:",
        "It was something else, I think. No, this is it:",
        "Let me see, I wrote it down. Here:",
    ),
    "zh": (
        "我不太记得了。哦，想起来了：",
        "好像是别的事……不，就是这件：",
        "让我看看，我记下来了：",
    ),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Add the sentence."""
    return before(text, SENTENCES, draw, name)


MEMORY = UserKind(name="memory", is_explicit=False, survival="ignore", act=act)
