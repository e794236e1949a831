"""The scripted person of a task: answers what was asked, agrees, and knows when to end.

    the agent's message          the person
    asks for what was withheld   says it
    asks whether to go on        agrees
    asks something else          repeats the request
    says that it is under way    waits
    anything else                ends the talk

A person who has repeated or waited `MAX_IDLE` times gives up. What they say is never false.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

MAX_IDLE = 3
"""Answers in a row that bring nothing new."""

MAX_ANSWERS = 12
"""Answers in all."""

_REQUEST = re.compile(
    r"\?|？|\b(?:please (?:tell|give|provide|specify|say|name|share|confirm|let|send|state|clarify)"
    r"|tell me|give me|let me know|i(?:'ll| will)? (?:still )?need (?:to know|the|your|a|more)"
    r"|could you|can you|would you)\b",
    re.IGNORECASE,
)
_WANTS_NAME = re.compile(
    r"\b(?:which|who|whom|whose|name|names|title|detail\w*|more information|identif\w+"
    r"|clarif\w+|specif\w+)\b",
    re.IGNORECASE,
)
_CONFIRM = re.compile(
    r"\b(?:shall i|should i|may i|can i (?:go|proceed|continue)|do you (?:want|wish|agree|confirm)"
    r"|would you like me|is (?:that|this|it) (?:right|correct|ok|okay|fine|all right|what you)"
    r"|are you sure|confirm\w*|proceed|go (?:on|ahead)|continue|ready|okay|ok)\b",
    re.IGNORECASE,
)
_FAREWELL = re.compile(
    r"\b(?:(?:any|some)thing (?:else|more|further)|(?:any )?(?:other|further|more) "
    r"(?:requests?|questions?|help|assistance)|how else|what else)\b",
    re.IGNORECASE,
)
_UNDER_WAY = re.compile(
    r"\b(?:one moment|a moment|please (?:wait|hold)|hold on|i(?:'ll| will| am going to|'m going to)"
    r"|i(?:'m| am) (?:now )?(?:\w+ing)|let me (?!know))\b",
    re.IGNORECASE,
)


def spoken(message: Any) -> str:
    """Return the text of an assistant message, whatever its form; empty if it has none."""
    content: Any = cast("Mapping[str, Any]", message).get("content") if _is_map(message) else None
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        texts = [cast("Mapping[str, Any]", part).get("text") for part in parts if _is_map(part)]
        content = " ".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", re.sub(r"^[\w ]*:", "", text)).strip().casefold()


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


class Person:
    """One person in one talk.

    Args:
        opening: What they said first.
        withheld: What they add when it is asked for; empty if nothing.
        topics: Words by which one asks for it, besides the usual ones.
        change: A change of mind, said to the first question whether to go on; empty if none.
    """

    def __init__(
        self, opening: str, withheld: str, *, topics: tuple[str, ...] = (), change: str = ""
    ) -> None:
        self._opening, self._withheld, self._change = opening, withheld, change
        self._own = {_bare(sentence) for sentence in re.split(r"(?<=[.!?])\s+", opening)}
        self._topics = tuple(re.compile(rf"\b{re.escape(t)}\b", re.IGNORECASE) for t in topics if t)
        self._idle = self._answers = 0
        self.was_asked = False
        """Whether what was withheld has been said."""

    def answer(self, text: str) -> str | None:
        """Return what the person says to `text`; `None` ends the talk."""
        self._answers += 1
        if self._answers > MAX_ANSWERS:
            return None
        if not text.strip():
            return self._wait("Sorry, I did not hear you.")
        text = self._without_own_words(text.replace("’", "'"))
        if _FAREWELL.search(text):
            return None
        if _REQUEST.search(text):
            return self._respond(text)
        if _UNDER_WAY.search(text):
            return self._wait("All right.")
        return None

    def _without_own_words(self, text: str) -> str:
        """Leave out the sentences in which the agent repeats what the person said."""
        sentences = re.split(r"(?<=[.!?])\s+", text)
        return " ".join(s for s in sentences if _bare(s) not in self._own)

    def _respond(self, text: str) -> str | None:
        """Answer a question or a request."""
        is_about = any(topic.search(text) for topic in self._topics)
        if self._withheld and (_WANTS_NAME.search(text) or (is_about and not self.was_asked)):
            return self._tell()
        if _CONFIRM.search(text):
            return self._agree()
        if self._withheld and is_about:
            return self._tell()
        return self._wait(f"As I said: {self._opening}")

    def _agree(self) -> str | None:
        if self._change:
            change, self._change, self._idle = self._change, "", 0
            return change
        return self._wait("Yes, please.")

    def _tell(self) -> str | None:
        if self.was_asked:
            return self._wait(self._withheld)
        self.was_asked, self._idle = True, 0
        return self._withheld

    def _wait(self, words: str) -> str | None:
        self._idle += 1
        return words if self._idle <= MAX_IDLE else None
