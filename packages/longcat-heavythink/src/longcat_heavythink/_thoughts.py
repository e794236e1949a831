"""Tell thoughts from the answer by structure.

A tag counts only where a model's template puts it: at the very start of the text, or alone on its
line outside a fenced code block. A tag that is mentioned inside a sentence is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMES = "longcat_think|think|thinking|thought|reasoning|seed:think"
_OPEN = re.compile(rf"(?i)\s*(?:<({_NAMES})>|(\[THINK\])|(◁think▷)|(<\|START_THINKING\|>))")
_LINE = re.compile(
    rf"(?mi)^[ \t]*(?:(?P<fence>```|~~~)|(?P<open><(?:{_NAMES})>|\[THINK\]|◁think▷"
    rf"|<\|START_THINKING\|>)[ \t]*$|(?P<close></(?:{_NAMES})>|\[/THINK\]|◁/think▷"
    rf"|<\|END_THINKING\|>)[ \t]*$)"
)


@dataclass(frozen=True, slots=True)
class Parts:
    """A text, taken apart."""

    thoughts: str
    text: str
    unclosed: bool = False
    """A thought began and never ended: `text` is what stood before it."""


def split_thoughts(content: str) -> Parts:
    r"""Part a completion into thoughts and answer.

    >>> split_thoughts("<think>six sevens</think>42")
    Parts(thoughts='six sevens', text='42', unclosed=False)
    >>> split_thoughts("Models end thoughts with </think>, as a rule.").thoughts
    ''
    >>> split_thoughts("<think>six sev").unclosed
    True
    """
    if not may_hold_thoughts(content):
        return Parts("", content.strip())
    thoughts: list[str] = []
    rest = content
    opened = _OPEN.match(rest)
    while opened is not None:  # some models think twice before they answer
        inside, found, after = rest[opened.end() :].partition(_closer(opened))
        thoughts.append(inside.strip())
        if not found:
            return Parts("\n".join(thoughts).strip(), "", unclosed=True)
        rest = after
        opened = _OPEN.match(rest)
    more, rest, unclosed = _split_lines(rest)
    return Parts("\n".join(part for part in [*thoughts, *more] if part), rest.strip(), unclosed)


def may_hold_thoughts(content: str) -> bool:
    """Return whether a text holds the beginning of any tag; most do not."""
    return "<" in content or "[" in content or "◁" in content


def _closer(opened: re.Match[str]) -> str:
    if opened[1]:
        return f"</{opened[1]}>"
    if opened[2]:
        return opened[2].replace("[", "[/")
    if opened[3]:
        return opened[3].replace("◁", "◁/")
    is_upper = opened[4].isupper()
    return opened[4].replace("START", "END") if is_upper else opened[4].replace("start", "end")


def _split_lines(text: str) -> tuple[list[str], str, bool]:
    """Take out thoughts whose tags stand alone on their lines, code blocks aside."""
    thoughts: list[str] = []
    kept: list[str] = []
    start, is_fenced, is_open = 0, False, False
    for mark in _LINE.finditer(text):
        if mark["fence"]:
            is_fenced = not is_fenced and not is_open
        elif is_fenced:
            continue
        elif mark["open"]:
            if not is_open:
                kept.append(text[start : mark.start()])
                start, is_open = mark.end(), True
        else:  # a closing tag without an opening one: the template had opened the thought
            if not is_open:
                thoughts += kept
                kept = []
            thoughts.append(text[start : mark.start()].strip())
            start, is_open = mark.end(), False
    tail = text[start:]
    if is_open:
        thoughts.append(tail.strip())
    else:
        kept.append(tail)
    return [part for part in thoughts if part.strip()], "".join(kept), is_open


def strip_thoughts(text: str) -> str:
    """Return the answer alone: `split_thoughts(text).text`."""
    return split_thoughts(text).text


class LiveThoughts:
    """Tells thoughts from text while both stream in, for tags at the very start.

    >>> live = LiveThoughts()
    >>> [live.feed(piece) for piece in ("<th", "ink>six", " sevens</thi", "nk>42")]
    [('', ''), ('', 'six'), ('', ' sevens'), ('42', '')]
    """

    def __init__(self) -> None:
        self._held = ""
        self._closer = ""
        self._is_open_to_thoughts = True

    def feed(self, piece: str) -> tuple[str, str]:
        """Take a piece; return what of it is text and what is thought. May hold some back."""
        self._held += piece
        text, thoughts = "", ""
        while self._held:
            if self._closer:
                inside, found, after = self._held.partition(self._closer)
                if not found:
                    keep = _overlap(self._held, self._closer)
                    end = len(self._held) - keep
                    thoughts, self._held = thoughts + self._held[:end], self._held[end:]
                    break
                thoughts, self._held, self._closer = thoughts + inside, after, ""
            elif not self._is_open_to_thoughts:
                text, self._held = text + self._held, ""
            else:
                opened = _OPEN.match(self._held)
                if opened is not None:
                    self._held, self._closer = self._held[opened.end() :], _closer(opened)
                elif _may_open(self._held):
                    break
                else:
                    self._is_open_to_thoughts = False
        return text, thoughts


_OPENERS = (
    *(f"<{name}>" for name in _NAMES.split("|")),
    "[THINK]",
    "◁think▷",
    "<|START_THINKING|>",
)


def _may_open(text: str) -> bool:
    start = text.lstrip().lower()
    return any(opener.lower().startswith(start) for opener in _OPENERS)


def _overlap(text: str, tag: str) -> int:
    """Return how many of the last characters may be the beginning of the tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
