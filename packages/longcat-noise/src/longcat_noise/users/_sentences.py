"""Sentences around a request, in English and Chinese; the request itself stands there whole."""

from longcat_noise._draw import Draw
from longcat_noise._words import Language, join, language

Sentences = dict[Language, tuple[str, ...]]


def before(text: str, sentences: Sentences, draw: Draw, name: tuple[object, ...]) -> str:
    """Put one of the sentences before the text."""
    return join(draw.choose(sentences[language(text)], "sentence", *name), text)


def behind(text: str, sentences: Sentences, draw: Draw, name: tuple[object, ...]) -> str:
    """Put one of the sentences behind the text."""
    return join(text, draw.choose(sentences[language(text)], "sentence", *name))
