"""A vague opening; the request itself comes when the agent says anything at all.

Costs a turn, so it acts on the opening alone and counts in the certificate.
"""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans, language

from ._sentences import Sentences

SENTENCES: Sentences = {
    "en": ("It is about that thing.", "I need your help with something.", "You know, the usual."),
    "zh": ("就是那件事。", "有件事想请你帮忙。", "你知道的，老样子。"),
}


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Say something vague in place of the request."""
    return draw.choose(SENTENCES[language(text)], "sentence", *name)


AMBIGUITY = UserKind(
    name="ambiguity", is_explicit=False, survival="ask", extra_turns=1, act=act, is_deferring=True
)
