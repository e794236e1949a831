"""Imperfect users and tools, in kinds that raise difficulty and never break solvability.

Tools      `failure`    an error in place of the answer; the call did not happen; trying again helps
           `partial`    some values are hidden; asking again shows them
           `padding`    boilerplate around the answer, facts unchanged
Users      `redundancy` sentences that do not matter, around the request
           `typo`       a slip in a word that is not a protected literal
           `casing`     the request in lower case, protected literals as they are

A tool is never disturbed more than `max_per_tool` times in an episode, so that patience suffices.
Source: LongCat-Flash-Thinking-2601 report 3.3.3; kinds after the team's AgentNoiseBench, without
those that would mislead or falsify.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from ._draw import Draw

TOOL_KINDS = ("failure", "partial", "padding")
USER_KINDS = ("redundancy", "typo", "casing")

FAILURES = (
    "429 too many requests, try again",
    "503 service unavailable, try again",
    "408 request timeout, try again",
)
HIDDEN = "..."
PADDING = ("status ok", "cached", "page 1 of 1")
REDUNDANT = (
    "It is a busy day here.",
    "I hope you are well.",
    "Sorry for the trouble.",
    "My colleague told me to ask you.",
    "No hurry.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """How much, and of what."""

    level: float
    """0 is a perfect world; the chance that a call or a message is disturbed."""
    tool_kinds: tuple[str, ...] = TOOL_KINDS
    user_kinds: tuple[str, ...] = USER_KINDS
    max_per_tool: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise ValueError(f"level must be in [0, 1], got {self.level}")
        for kinds, known in ((self.tool_kinds, TOOL_KINDS), (self.user_kinds, USER_KINDS)):
            for kind in kinds:
                if kind not in known:
                    raise ValueError(f"a kind must be among {', '.join(known)}, got {kind!r}")
        if self.max_per_tool < 0:
            raise ValueError(f"max_per_tool must not be negative, got {self.max_per_tool}")


def tool_kind(config: NoiseConfig, draw: Draw, tool: str, nth: int, num_before: int) -> str | None:
    """Decide what befalls the `nth` call of a tool, of which `num_before` were disturbed."""
    if num_before >= config.max_per_tool or not config.tool_kinds:
        return None
    if draw("tool", tool, nth) >= config.level:
        return None
    return draw.choose(config.tool_kinds, "tool-kind", tool, nth)


def disturb_result(kind: str, content: str, draw: Draw, tool: str, nth: int) -> str:
    """Return what the agent sees instead of `content`."""
    if kind == "failure":
        return _compact({"error": draw.choose(FAILURES, "failure", tool, nth)})
    if kind == "partial":
        return _hide(content, draw, tool, nth)
    note = draw.choose(PADDING, "padding", tool, nth)
    return f"{note} {content}"


def _hide(content: str, draw: Draw, tool: str, nth: int) -> str:
    """Hide half of the values of a JSON object, or of each object of a list."""
    try:
        value: Any = json.loads(content)
    except json.JSONDecodeError:
        return HIDDEN
    rows = cast("list[Any]", value) if isinstance(value, list) else [value]
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            rows[place] = HIDDEN
            continue
        fields = cast("dict[str, Any]", row)
        ranked = sorted(fields, key=lambda key: draw("hide", tool, nth, place, key))
        for key in ranked[: (len(ranked) + 1) // 2]:
            fields[key] = HIDDEN
    return _compact(rows if isinstance(value, list) else rows[0])


def disturb_request(
    text: str, *, config: NoiseConfig, draw: Draw, protected: Iterable[str], nth: int = 0
) -> str:
    """Return what the user says instead of `text`; protected literals survive letter by letter."""
    if not config.user_kinds or draw("user", nth) >= config.level:
        return text
    kind = draw.choose(config.user_kinds, "user-kind", nth)
    if kind == "redundancy":
        extra = draw.choose(REDUNDANT, "redundant", nth)
        return f"{extra} {text}" if draw("before", nth) < 0.5 else f"{text} {extra}"
    spans = _split(text, protected)
    if kind == "casing":
        return "".join(part if kept else part.lower() for part, kept in spans)
    return _typo(spans, draw, nth)


def _split(text: str, protected: Iterable[str]) -> list[tuple[str, bool]]:
    """Cut a text into protected and free parts."""
    literals = sorted({p for p in protected if p}, key=len, reverse=True)
    if not literals:
        return [(text, False)]
    pattern = "|".join(map(re.escape, literals))
    parts = re.split(f"({pattern})", text)
    return [(part, place % 2 == 1) for place, part in enumerate(parts) if part]


def _typo(spans: list[tuple[str, bool]], draw: Draw, nth: int) -> str:
    """Swap two letters inside one free word of at least four."""
    words = [
        (place, match.start(), match.end())
        for place, (part, kept) in enumerate(spans)
        if not kept
        for match in re.finditer(r"[A-Za-z]{4,}", part)
    ]
    if not words:
        return "".join(part for part, _ in spans)
    place, start, end = draw.choose(words, "typo-word", nth)
    at = start + 1 + int(draw("typo-letter", nth) * (end - start - 2))
    part = spans[place][0]
    slipped = part[:at] + part[at + 1] + part[at] + part[at + 2 :]
    return "".join(slipped if p == place else part for p, (part, _) in enumerate(spans))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
