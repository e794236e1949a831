"""All in lower case; in Chinese, marks in half width. Spared parts stay as they are."""

from longcat_noise._draw import Draw
from longcat_noise._kind import UserKind
from longcat_noise._words import Spans

HALF = str.maketrans("，。！？；：（）“”", ",.!?;:()\"\"")  # fmt: skip


def act(text: str, spans: Spans, draw: Draw, name: tuple[object, ...]) -> str:
    """Lower what is free."""
    return spans.map(lambda part: part.lower().translate(HALF))


CASING = UserKind(name="casing", is_explicit=True, survival="ignore", act=act)
