"""Something asked on the side that is nobody's task here, and is at once let go."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

from ._sentences import Sentences, behind

SENTENCES: Sentences = {
    "en": (
        "And could you write me a poem? No, never mind that.",
        "You do not repair bicycles, do you? Forget it.",
        "Can you also tell my fortune? I am joking.",
    ),
    "zh": (
        "顺便给我写首诗？算了，不用了。",
        "你们不修自行车吧？当我没说。",
        "还能给我算个命吗？开玩笑的。",
    ),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Add the sentence."""
    return behind(text, SENTENCES, draw, name)


BOUNDARY = UserKind(name="boundary", is_explicit=False, survival="ignore", act=act)
