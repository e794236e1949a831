"""A growing answer as text, and what of it clients may see already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longcat_moe._tokenizer import EOS

THINK_END, CALL = "</longcat_think>", "<longcat_tool_call>"


class TextStream:
    """The text of tokens that come one by one, each decoded a few times at most.

    Tokens are decoded together with those before them, back to where whole characters ended, since
    a character may be cut in two and a token's text may depend on its neighbour.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.text = ""
        self._decode = decode
        self._ids: list[int] = []
        self._begin = self._read = 0

    def add(self, token_id: int) -> str:
        """Return the text so far; half a character at its end is left out."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._begin : self._read])
        now = self._decode(self._ids[self._begin :])
        if not now.endswith("\ufffd") and len(now) >= len(before):
            self.text += now[len(before) :]
            self._begin, self._read = self._read, len(self._ids)
        return self.text

    def end(self) -> str:
        """Return the whole text, half a character at its end included."""
        before = self._decode(self._ids[self._begin : self._read])
        return self.text + self._decode(self._ids[self._begin :])[len(before) :]


class Shown:
    """What of a growing text was sent: first the thought, then the content before any tool call."""

    def __init__(self, *, is_thinking: bool, has_calls: bool = True) -> None:
        self.thought, self.content = "", ""
        self.is_thinking = is_thinking
        self.calls = [CALL] if has_calls else []

    def advance(self, text: str, stops: Sequence[str]) -> dict[str, Any]:
        """Return what can be sent now; what may be the beginning of a marker waits."""
        thought, closed, content = (
            text.partition(THINK_END) if self.is_thinking else ("", "x", text)
        )
        delta: dict[str, Any] = {}
        thought = cut_at(thought, stops)
        new = (
            safe(thought, [THINK_END, "\n" + THINK_END, EOS, *stops])
            if not closed
            else thought.removesuffix("\n")
        )
        if len(new) > len(self.thought):
            delta["reasoning_content"], self.thought = new[len(self.thought) :], new
        if closed:
            visible = content.removeprefix("\n").removesuffix(EOS)
            for mark in (*self.calls, *stops):
                visible = visible.split(mark)[0]
            new = safe(visible, [*self.calls, EOS, *stops])
            if len(new) > len(self.content):
                delta["content"], self.content = new[len(self.content) :], new
        return delta

    def rest(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the whole message holds beyond what was sent."""
        delta: dict[str, Any] = {}
        for key, sent in (("reasoning_content", self.thought), ("content", self.content)):
            whole = message.get(key) or ""
            if whole.startswith(sent) and len(whole) > len(sent):
                delta[key] = whole[len(sent) :]
        return delta


def safe(text: str, markers: Sequence[str]) -> str:
    """Leave off an end that may become one of the markers, or half a character."""
    text = text.rstrip("\ufffd")
    longest = max(map(len, markers), default=0)
    for begin in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[begin:]) for marker in markers):
            return text[:begin]
    return text


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of some strings."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
