"""The scripted person of a task: answers what was asked, agrees, and knows when to end.

    the agent's message          the person
    asks for what was withheld   says it
    asks whether to go on        agrees
    asks something else          repeats the request
    says that it is under way    waits
    says goodbye                 is gone, whatever they still wanted
    anything else                brings up the next wish; without one, ends the talk

A person with several wishes says one after the other. `Is there anything else?` brings up the next
one, as does word that the last is settled or refused. What belongs to a wish (a value left out, a
change of mind) is said once the wish was brought up, and what is repeated is the last wish.
A person who has repeated or waited `MAX_IDLE` times gives up. What they say is never false.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

MAX_IDLE = 3
"""Answers in a row that bring nothing new."""

MAX_ANSWERS, MAX_ANSWERS_EACH = 12, 4
"""Answers in all, and how many more for each later wish."""

_SENTENCE_END = re.compile(r"((?<=[.!?])\s+|(?<=[。！？]))")
_INTRODUCTION = re.compile(r"^[\w ]*[:：]\s*(?:[-*•]\s*)?")
_REQUEST = re.compile(
    r"\?|？|\b(?:please (?:tell|give|provide|specify|say|name|share|confirm|let|send|state|clarify)"
    r"|tell me|give me|let me know|i(?:'ll| will)? (?:still )?need (?:to know|the|your|a|more)"
    r"|could you|can you|would you"
    r"|(?:reply|respond|answer|type|press)(?: \w+){0,2} [\"']?(?:yes|ok|okay|y|1|confirm|go)"
    r"|say (?:yes|the word)|ready when you|(?:await|wait)ing (?:for )?your"
    r"|with your (?:consent|permission|approval|okay|ok),? i"
    r"|need your (?:consent|permission|approval|confirmation|ok|okay|agreement|go-ahead))\b"
    r"|请(?:你|您)?(?:再|先)?(?:告诉|告知|提供|说明|确认|给|说|补充|问)|能不能|可不可以|可以吗|是否|好吗|行吗|对吗|吗\W*$"
    r"|回复|行不行|好不好|(?:您|你)(?:确认|同意)(?:后|的话|了)|等(?:待|着)?(?:您|你)的?(?:确认|同意|答复)"
    r"|还?需要(?:知道|了解|您|你)|麻烦(?:您|你)(?:告诉|提供|确认|说)|哪|什么|多少",
    re.IGNORECASE,
)
_WANTS_NAME = re.compile(
    r"\b(?:which|who|whom|whose|name|names|title|detail\w*|more information|identif\w+"
    r"|clarif\w+|specif\w+)\b|哪|谁|名字|姓名|名称|具体|细节|详细|补充|说明|漏|没有?(?:说|告诉)|(?:什么|更多)信息",
    re.IGNORECASE,
)
_CONFIRM = re.compile(
    r"\b(?:shall i|should i|may i|can i (?:go|proceed|continue)|do you (?:want|wish|agree|confirm)"
    r"|would you like me|is (?:that|this|it) (?:right|correct|ok|okay|fine|all right|what you)"
    r"|(?:your|the) (?:consent|permission|approval|agreement|go-ahead|word)|yes or no|with yes"
    r"|(?:say|reply|respond|answer|type|press) [\"']?(?:yes|y|1)|agreed|do you approve|deal"
    r"|(?:happy|okay|ok|fine|all right) with (?:that|this|it)|work for you|sounds? (?:good|right)"
    r"|(?:everything|all|that) (?:correct|right|good|fine)|when you are|say the word|your ok"
    r"|are you sure|confirm\w*|proceed|go (?:on|ahead)|continue|ready|okay|ok)\b"
    r"|回复|行不行|好不好|可以[^。，,？?]{0,6}吗|确认|继续|可以吗|可以开始|是否(?:同意|办理|可以|需要)|要我|需要我|好吗|行吗|对吗|是这样吗|同意",
    re.IGNORECASE,
)
_FAREWELL = re.compile(
    r"\b(?:(?:any|some)thing (?:else|more|further)|(?:any )?(?:other|further|more) "
    r"(?:requests?|questions?|help|assistance)|how else|what else)\b"
    r"|(?:还有|还需要|还要)(?:什么|别的|其他|其它|哪些)"
    r"(?![^。！？!?]{0,8}(?:信息|细节|没有?[说告]|漏))|(?:其他|其它|别的)(?:需要|事|问题|帮助|要办)",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\bwhat(?:'s|(?: \w+){1,6}) next\b|\b(?:your|the) (?:next|other|second) "
    r"(?:request|wish|question|matter|point|thing|concern)s?\b|下一(?:件|个|步)|接下来",
    re.IGNORECASE,
)
_GOODBYE = re.compile(
    r"\b(?:good ?bye|bye(?: now| for now)?|farewell|see you(?: soon| then)?"
    r"|(?:close|closing|end|ending) (?:this|the|our) (?:chat|conversation|talk|case|ticket))\b"
    r"|再见|拜拜|(?:对话|会话|服务)(?:就)?到此结束",
    re.IGNORECASE,
)
_UNDER_WAY = re.compile(
    r"\b(?:one moment|a moment|please (?:wait|hold)|hold on|i(?:'ll| will| am going to|'m going to)"
    r"|i(?:'m| am) (?:now )?(?:\w+ing)|let me (?!know))\b"
    r"|稍等|稍候|等一下|请等|马上|正在|我(?:这就|先|来|去|会)|让我",
    re.IGNORECASE,
)


Language = Literal["en", "zh"]


class _Lines:
    """What a person says, whoever they are; in each language."""

    deaf: Mapping[Language, str] = {
        "en": "Sorry, I did not hear you.",
        "zh": "不好意思，我没听清。",
    }
    wait: Mapping[Language, str] = {"en": "All right.", "zh": "好的。"}
    agree: Mapping[Language, str] = {"en": "Yes, please.", "zh": "好的，请办吧。"}
    again: Mapping[Language, str] = {"en": "As I said: {}", "zh": "就像我说的：{}"}


def _as_topic(topic: str) -> re.Pattern[str]:
    """Return what finds a word; in Chinese words are not set apart."""
    word = re.escape(topic)
    return re.compile(rf"\b{word}\b" if topic.isascii() else word, re.IGNORECASE)


def spoken(message: Any) -> str:
    """Return the text of an assistant message, whatever its form; empty if it has none."""
    content: Any = cast("Mapping[str, Any]", message).get("content") if _is_map(message) else None
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        texts = [cast("Mapping[str, Any]", part).get("text") for part in parts if _is_map(part)]
        content = " ".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().casefold()


@lru_cache(maxsize=128)
def own_words(heard: str) -> frozenset[str]:
    """Return the sentences that a person said, as `without_own_words` compares them."""
    sentences = _SENTENCE_END.split(heard)
    forms = (_bare(form) for one in sentences for form in (one, _INTRODUCTION.sub("", one)))
    return frozenset(form for form in forms if form)


def without_own_words(text: str, own: Collection[str]) -> str:
    """Leave out the sentences in which an agent repeats what the person said.

    What introduces one (`You asked:`, `These are wrong:`) is the agent's own, and stays.
    """
    parts = _SENTENCE_END.split(text)
    kept: list[str] = []
    for sentence, end in zip(parts[::2], [*parts[1::2], ""], strict=True):
        begin = _INTRODUCTION.match(sentence)
        if _bare(sentence) in own:
            continue
        is_own = begin is not None and _bare(sentence[begin.end() :]) in own
        kept += [begin[0] if begin is not None and is_own else sentence, end]
    return "".join(kept)


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


class Person:
    """One person in one talk.

    Args:
        opening: What they said first.
        withheld: What they add when it is asked for; empty if nothing.
        later: Further wishes, in their order.
        open_wish: Number of the wish, the opening being 0, that `withheld` and `change` are about.
        topics: Words by which one asks for it, besides the usual ones.
        change: A change of mind, said to the first question whether to go on; empty if none.
        language: The language in which they speak; they understand both.
    """

    def __init__(
        self, opening: str, withheld: str, *, topics: tuple[str, ...] = (), change: str = "",
        language: str = "en", later: Sequence[str] = (), open_wish: int = 0,
    ) -> None:  # fmt: skip
        self._wishes, self._place, self._open_wish = (opening, *later), 0, open_wish
        self._withheld, self._change = withheld, change
        self._language: Language = "zh" if language == "zh" else "en"
        self._own = own_words("\n".join(self._wishes))
        self._max_answers = MAX_ANSWERS + MAX_ANSWERS_EACH * len(later)
        self._topics = tuple(_as_topic(topic) for topic in topics if topic)
        self._idle = self._answers = 0
        self.was_asked = False
        """Whether what was withheld has been said."""

    @property
    def num_unsaid(self) -> int:
        """Wishes that have not been brought up."""
        return len(self._wishes) - 1 - self._place

    def answer(self, text: str) -> str | None:
        """Return what the person says to `text`; `None` ends the talk."""
        self._answers += 1
        if self._answers > self._max_answers:
            return None
        if not text.strip():
            return self._wait(_Lines.deaf[self._language])
        text = without_own_words(text.replace("’", "'"), self._own)
        if _FAREWELL.search(text) or (len(self._wishes) > 1 and _NEXT.search(text)):
            return self._next()
        if self.num_unsaid and _GOODBYE.search(text):
            return None
        if _REQUEST.search(text):
            return self._respond(text)
        if _UNDER_WAY.search(text):
            return self._wait(_Lines.wait[self._language])
        return self._next()

    def _next(self) -> str | None:
        """Bring up the next wish; without one, end the talk."""
        if not self.num_unsaid:
            return None
        self._place, self._idle = self._place + 1, 0
        return self._wishes[self._place]

    @property
    def _is_open(self) -> bool:
        """Whether the wish was brought up of which something is withheld or changed."""
        return self._place >= self._open_wish

    def _respond(self, text: str) -> str | None:
        """Answer a question or a request."""
        is_about = any(topic.search(text) for topic in self._topics)
        holds_back = bool(self._withheld) and self._is_open
        if holds_back and (_WANTS_NAME.search(text) or (is_about and not self.was_asked)):
            return self._tell()
        if _CONFIRM.search(text):
            return self._agree()
        if holds_back and is_about:
            return self._tell()
        return self._wait(_Lines.again[self._language].format(self._wishes[self._place]))

    def _agree(self) -> str | None:
        if self._change and self._is_open:
            change, self._change, self._idle = self._change, "", 0
            return change
        return self._wait(_Lines.agree[self._language])

    def _tell(self) -> str | None:
        if self.was_asked:
            return self._wait(self._withheld)
        self.was_asked, self._idle = True, 0
        return self._withheld

    def _wait(self, words: str) -> str | None:
        self._idle += 1
        return words if self._idle <= MAX_IDLE else None
