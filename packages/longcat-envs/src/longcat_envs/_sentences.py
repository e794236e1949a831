"""The sentences of a message, with the headings that they stand under.

It is not            It is not 1240.50               a line that goes on in the next
1240.50
These are wrong:     These are wrong:                a heading, said of each under it
- 1240.50            These are wrong: - 1240.50
- 1300.00            These are wrong: - 1300.00
"""

from __future__ import annotations

import re

_SHORT = "".join(
    rf"(?<!\b{word}\.)" for word in (r"e\.g", r"i\.e", "approx", "ca", "max", "min", "est", "incl")
)
_END = re.compile(rf"(?<=[.!?;。！？；]){_SHORT}\s+|(?<=[。！？；])", re.IGNORECASE)
"""A sentence goes on after `e.g.`"""
_HEADING = re.compile(r"[:：][^\w:：]*$")
_ITEM = re.compile(r"[-*•–+>|]")
_GOES_ON = re.compile(
    r"(?<=[^.!?;:。！？；：])\n(?=(?:[-€$£(]|[A-Z]{3} ?)?\d|[a-z])"
    r"|(?<=\b(?:is|be|an|of|to|or))\n|(?<=\b(?:not|was|are|the))\n|(?<=n't)\n"
)
_MARKER = re.compile(r"^[^\S\n]*(\d{1,2})[.)](?=[^\S\n]+\S)", re.MULTILINE)


def sentences(text: str) -> list[str]:
    """Split a text at its full stops and line breaks."""
    found: list[str] = []
    heading = ""
    lines = [line.strip() for line in _without_markers(text).split("\n")]
    for line in _GOES_ON.sub(" ", "\n".join(filter(None, lines))).split("\n"):
        parts = [part for part in _END.split(line) if part] or [""]
        found += [f"{heading} {part}" for part in parts] if heading else parts
        if _HEADING.search(parts[-1]):
            heading = parts[-1]
        elif not _ITEM.match(line):
            heading = ""
    return found


def _without_markers(text: str) -> str:
    """Write a numbered list, 1. 2. 3. at the beginnings of lines, as one with dashes."""
    numbers = [int(number) for number in _MARKER.findall(text)]
    is_list = len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1))
    return _MARKER.sub("-", text) if is_list else text
