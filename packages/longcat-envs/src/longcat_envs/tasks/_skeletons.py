"""Sentence skeletons: what a person of a domain may say, with slots in the place of values.

    a way of asking, bare              I cannot come, cancel {self}.
    a way that orders, in each frame   Could you cancel {self}?
    a number in each way to ask        Let me know the price of {self}.

The words for records, greetings, ends and what joins sentences (`Also, `) are not counted.
"""

from __future__ import annotations

from longcat_envs.history import Setting

from ._language import language_of


def skeletons(setting: Setting) -> frozenset[str]:
    """Return every skeleton of the sentences that openings of a domain are composed of."""
    language, words = language_of(setting.words), setting.words
    bare, found = "{}" + language.stop, set[str]()
    for ways in words.asks.values():
        for way in ways:
            frames = (bare, *language.frames) if language.is_order(way) else (bare,)
            found.update(frame.replace("{}", way) for frame in frames)
    for ways in words.figures.values():
        for way in ways:
            asks = (*language.asks_figure, *language.asks_figure_too)
            found.update(ask.replace("{}", way) + language.stop for ask in asks)
    return frozenset(found)
