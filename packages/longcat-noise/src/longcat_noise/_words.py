"""A user's words, cut into what noise may touch and what it must spare.

Literals (names, ids, values) are spared letter by letter, and so are their other forms: upper and
lower case, full width, decomposed accents, signs without width, other blanks, quotes and dashes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]
_SAME = str.maketrans("\u2018\u2019\u02bc\u2010\u2011\u2012\u2013\u2212", "'''-----")
"""Quotes and dashes that are typed for one another."""
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Spans:
    """A text in parts that alternate between free and spared."""

    parts: tuple[tuple[str, bool], ...]
    """Each part, and whether it is spared."""

    def map(self, change: Callable[[str], str]) -> str:
        """Return the text with a function applied to each free part."""
        return "".join(part if kept else change(part) for part, kept in self.parts)

    @property
    def text(self) -> str:
        """The text itself."""
        return "".join(part for part, _ in self.parts)

    @property
    def literals(self) -> tuple[str, ...]:
        """The spared parts, as they stand in the text."""
        return tuple(part for part, kept in self.parts if kept)

    def replace(self, index: int, part: str) -> str:
        """Return the text with another part at an index."""
        return "".join(part if i == index else p for i, (p, _) in enumerate(self.parts))


def fold(text: str) -> str:
    """Return the form in which literals are compared."""
    return _folded(text)[0].strip()


def _folded(text: str) -> tuple[str, list[int]]:
    """Return the folded text, and for each of its characters where it comes from."""
    letters: list[str] = []
    origins: list[int] = []
    for index, letter in enumerate(text):
        form = unicodedata.normalize("NFKD", letter.translate(_SAME)).casefold()
        form = unicodedata.normalize("NFKD", form).translate(_SAME)
        if unicodedata.category(letter) == "Cf":
            form = ""  # a zero-width space, a soft hyphen
        elif form.isspace():
            form = "" if letters and letters[-1] == " " else " "
        for piece in form:
            letters.append(piece)
            origins.append(index)
    return "".join(letters), origins


def split(text: str, protected: Iterable[str]) -> Spans:
    """Cut a text into free and spared parts.

    Example:
        >>> split("renew ada berg's loan", ["Ada Berg"]).literals
        ('ada berg',)
    """
    folded, origins = _folded(text)
    spared = [False] * len(text)
    for literal in {fold(item) for item in protected}:
        start = folded.find(literal) if literal else -1
        while start >= 0:
            stop = start + len(literal)
            last = origins[stop] if stop < len(origins) else len(text)
            for index in range(origins[start], max(last, origins[stop - 1] + 1)):
                spared[index] = True
            start = folded.find(literal, start + 1)
    parts: list[tuple[str, bool]] = []
    begin = 0
    for index in range(1, len(text) + 1):
        if index == len(text) or spared[index] != spared[begin]:
            parts.append((text[begin:index], spared[begin]))
            begin = index
    return Spans(tuple(parts))


def language(text: str) -> Language:
    """Return the language that a text is mostly in: a Chinese sign weighs as much as a word."""
    return "zh" if len(_HAN.findall(text)) > len(re.findall(r"[A-Za-z]+", text)) else "en"


def join(first: str, second: str) -> str:
    """Put two sentences one behind the other, with a blank where the language has one."""
    blank = "" if _HAN.search(first[-1:]) or first[-1:] in "。！？，；：" else " "
    return f"{first}{blank}{second}"
