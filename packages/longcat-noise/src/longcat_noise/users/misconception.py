"""A confident mistake about the world that the request does not depend on."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

from ._sentences import Sentences, before

SENTENCES: Sentences = {
    "en": (
        "I know that you only answer on Mondays, but:",
        "As everybody knows, your records are kept on paper. So:",
        "You surely charge for every question. All the same:",
    ),
    "zh": (
        "我知道你们只在星期一答复，但是：",
        "大家都知道你们的记录是写在纸上的。那么：",
        "你们每问一句肯定都收费。不过：",
    ),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Add the sentence."""
    return before(text, SENTENCES, draw, name)


MISCONCEPTION = UserKind(name="misconception", is_explicit=False, survival="ignore", act=act)
