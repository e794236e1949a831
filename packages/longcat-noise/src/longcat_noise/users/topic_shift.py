"""Off the topic for a sentence, then back to the request."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

from ._sentences import Sentences, before

SENTENCES: Sentences = {
    "en": (
        "Do you know when the rain will stop? Anyway:",
        "I read a good novel this week. Well, to the matter:",
        "The coffee here has become better. But now:",
    ),
    "zh": (
        "你知道雨什么时候停吗？言归正传：",
        "这周我读了一本好小说。好了，说正事：",
        "这里的咖啡变好喝了。不过：",
    ),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Add the sentence."""
    return before(text, SENTENCES, draw, name)


TOPIC_SHIFT = UserKind(name="topic_shift", is_explicit=False, survival="ignore", act=act)
