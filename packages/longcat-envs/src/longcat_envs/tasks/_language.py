"""How people speak, one language each: what openings are composed of, and forms of values.

A domain's own words are in its file of words; here is what all domains share. Texts hold `{}`
where a sentence, a name or a value stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from longcat_envs.lang import Type, show
from longcat_envs.world._words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """What people say in one language, whatever the domain."""

    code: str
    space: str
    """What stands between two sentences."""
    greetings: tuple[str, ...]
    names: tuple[str, ...]
    frames: tuple[str, ...]
    """What is put around a sentence that tells somebody to do something."""
    short_frames: tuple[str, ...]
    """What is put around such a sentence if it goes on after a comma."""
    ends: tuple[str, ...]
    several: tuple[str, ...]
    """Says that more will be asked for; may be empty."""
    next: tuple[str, ...]
    """Begins a message with a further wish."""
    hasty: tuple[str, ...]
    """Those of them that only go before what tells somebody to do something."""
    last_wish: tuple[str, ...]
    """Begins the last message."""
    aside: tuple[str, ...]
    """Begins a wish that has nothing to do with the others."""
    then: tuple[str, ...]
    """Begins what is to be done next, in the same message."""
    reasons: tuple[str, ...]
    """Begins what makes a wish possible with the `RULE` that stands in the way of it; empty if
    rules are in another language."""
    reasons_stated: tuple[str, ...]
    """The same before a statement, which is no order: `I give the garden back`."""
    asks_figure: tuple[str, ...]
    asks_figure_too: tuple[str, ...]
    """Ways to ask for a number that need another wish before them."""
    last: tuple[str, ...]
    """What comes before the number that is asked for when all else is done."""
    stop: str
    statements: tuple[str, ...]
    """First words of sentences that do not tell anybody to do something."""
    vague: Mapping[str, str]
    """By type, what stands for a value that is withheld, with its name where `{}` is."""
    left_out: tuple[tuple[str, str], ...]
    """Patterns of how a value is said (`VALUE`), and what is left if it is withheld; where there
    are any, no other value is withheld."""
    leads_to_record: str
    """A pattern of what stands before a record that need not be named beside an amount of it."""
    whole: tuple[str, str]
    """A beginning of words for an amount, and how it begins if all of it is moved."""
    vague_after: str
    """A sentence that says so afterwards, with the name of the value; empty if none is needed."""
    value_names: Mapping[str, str]
    """By type, what a value is called if neither the words nor the domain name it."""
    topics: Mapping[str, tuple[str, ...]]
    """By type, other words by which one asks for a value."""
    withheld: str
    """Says a value that was withheld: its name and itself."""
    change: str
    how_much: str
    yes: str
    no: str
    me: str
    it: str
    money: str
    money_exact: str
    short_amounts: bool = False
    """Whether whole amounts of records are said without cents."""
    day: str
    """A date as people write it, of month and day; empty for the ISO form."""
    day_of_year: str
    """The same with the year before."""
    months: tuple[str, ...] = ()
    """What months are called; empty for their numbers."""
    done: str
    looked: str
    refused: str
    answer: str
    """Says a number at the end: what it is and itself."""
    note: str = ""
    """What the agent is told about the language."""

    def argument(self, type_: Type, value: Any, words: Words, year: str = "") -> str:
        """Write an argument of a call as a person says it.

        Args:
            type_: Its type.
            value: As it stands in a call.
            words: Of the domain; they name options.
            year: The year that goes without saying.
        """
        if type_.kind == "flag":
            return self.yes if value else self.no
        if type_.kind in ("enum", "state"):
            return words.say(str(value))
        if type_.kind == "money":
            amount = Decimal(str(value))
            short = str(int(amount)) if amount == int(amount) else f"{amount:.2f}"
            return self.money.format(short)
        return self.date(str(value), year) if type_.kind == "date" else str(value)

    def field(self, type_: Type, value: Any, words: Words, year: str = "") -> str:
        """Write a field of a record as a person says it."""
        if type_.kind in ("flag", "enum", "state"):
            return self.argument(type_, value, words)
        shown = str(show(type_, value))
        if type_.kind == "money" and self.short_amounts:
            return self.argument(type_, shown, words)
        if type_.kind == "money":
            return self.money_exact.format(shown)
        return self.date(shown, year) if type_.kind == "date" else shown

    def date(self, day: str, year: str) -> str:
        """Write a date in ISO form as people of this language do."""
        if not self.day or len(day) != 10:
            return day
        month = int(day[5:7])
        told = self.months[month - 1] if self.months else month
        form = self.day if day[:4] == year else self.day_of_year
        return form.format(told, int(day[8:]), day[:4])

    def amount(self, kind: str, value: str, year: str) -> str:
        """Write a number that is told, from its canonical form."""
        if kind == "money":
            return self.money_exact.format(value)
        return self.date(value, year) if kind == "date" else value

    def is_order(self, text: str) -> bool:
        """Whether a way of asking tells somebody to do something."""
        if self.space:
            first = text.split()[0]
            return first not in self.statements and not first.startswith("{")
        return not text.startswith((*self.statements, "{"))

    def yours(self, text: str) -> str:
        """Turn a person's words into what is said to them, at the beginning of a sentence."""
        if not self.space:
            return text.replace("我", "您")
        swaps = {"my": "your", "me": "you", "I": "you", "have": "have", "am": "are"}
        text = " ".join(swaps.get(word, word) for word in text.split(" "))
        return text[0].upper() + text[1:]


ENGLISH = Language(
    code="en", space=" ", stop=".",
    greetings=("Hello.", "Hi,", "Good morning.", "Good day.", "Hello there.", "Hi there,", "Hi!",
               ""),
    names=("I am {}.", "my name is {}.", "this is {}.", "{} here.", "it's {}."),
    frames=("Please {}.", "Could you {}?", "I would like you to {}.", "Can you {}, please?", "{}.",
            "I need you to {}.", "Would you please {}?", "It would be great if you could {}."),
    short_frames=("Please {}.", "{}."),
    ends=("Thank you.", "Thanks a lot.", "", "Thanks!", "Many thanks.", ""),
    several=("A few things today.", "I have a few things to sort out.", "", "", "", ""),
    next=("All right. {}", "Okay. {}", "Next, {}", "And {}", "Now {}", "Then {}", "Also, {}", "{}"),
    hasty=("Next, {}", "Now {}", "Then {}"),
    last_wish=("One last thing: {}", "And finally, {}", "Before I go, {}", "{}"),
    aside=("By the way, {}", "While I am at it: {}", "Something else: {}", "A different thing: {}"),
    then=("Then {}", "After that, {}", "And then {}"),
    reasons=("I think RULE, so first {}", "As far as I know RULE, so before that {}",
             "I guess RULE, so first {}"),
    reasons_stated=("I think RULE. {}", "As far as I know RULE. {}", "I guess RULE. {}"),
    asks_figure=("tell me {}", "let me know {}", "I would like to know {}", "please look up {}"),
    asks_figure_too=("I also want to know {}",),
    last=("Once that is done, {}", "Oh, and {}", "And {}"),
    statements=("I", "my", "no", "here", "breakfast"),
    vague={},
    left_out=(
        (r"(?:,? (?:to|by)(?: number)? |, [a-z ]+: )VALUE(?: days)?$", ""),
        (r", (?:[a-z]+:? ){1,2}VALUE(?=,|$)", ""),
        ((r"(?<!next|come)(?<!start) (?:of|on|at|by|until|from)(?: number)? VALUE"
         r"(?=,|$| (?:of|on|at|for|to|with|off|in|every) )"), ""),
        (r"(?<=pay) VALUE(?= at )", ""),
        (r"\{pieces\} of ", ""),
        ((r"\b(move|take|pass|load|need|draw|transfer|shift|carry|pay|put|me)"
          r" \{(?:amount|sum_\w+)\}"
         r"(?= (?:from|into|on|onto|out|back|over|towards|in cash)\b)"), r"\1 some money"),
    ),
    leads_to_record="back from|out of|towards|onto|into|from|for|on|of|in|to",
    whole=("the balance ", "the whole balance "),
    vague_after="", value_names={},
    topics={"money": ("amount",), "date": ("day", "date", "when"), "int": ("how many", "number")},
    withheld="Oh, I forgot: the {} is {}.", change="Wait, I got that wrong: the {} is {}.",
    how_much="how much", yes="yes", no="no", me="me", it="it", money="{}", money_exact="{}",
    day="{1} {0}", day_of_year="{1} {0} {2}",
    months=("January", "February", "March", "April", "May", "June", "July", "August", "September",
            "October", "November", "December"),
    done="All of that is done.", looked="I have looked it up.",
    refused=" What the rules forbid was refused.", answer=" {}: {}.",
)  # fmt: skip

CHINESE = Language(
    code="zh", space="", stop="。",
    greetings=("你好，", "您好，", "你好！", "早上好，", "下午好，", "嗨，", "打扰一下，", "请问有人在吗？", ""),
    names=("我是{}。", "我叫{}。", "我的名字是{}。"),
    frames=("请{}。", "麻烦{}。", "能帮我{}吗？", "请帮我{}。", "{}，可以吗？", "{}。", "麻烦你{}。", "可以{}吗？",
            "想请你{}。"),
    short_frames=("请{}。", "{}。"),
    ends=("谢谢。", "谢谢！", "", "麻烦你了。", "多谢。", "辛苦了，谢谢。", ""),
    several=("有几件事想办。", "有些事要麻烦你。", "", ""),
    next=("好的。{}", "接下来，{}", "另外，{}", "还有，{}", "然后，{}", "{}"),
    hasty=("接下来，{}", "然后，{}"),
    last_wish=("最后，{}", "最后再问一下，{}", "{}"),
    aside=("对了，{}", "顺便，{}", "还有一件别的事：{}"),
    then=("然后，{}", "接着，{}", "之后，{}"), reasons=(), reasons_stated=(),
    asks_figure=("请查一下{}", "我想知道{}", "麻烦看一下{}", "帮忙查查{}"),
    asks_figure_too=("我还想知道{}",),
    last=("最后，{}", "都办完以后，{}"),
    statements=("我", "以后"),
    vague={"money": "一定金额", "date": "某一天", "int": "几", "text": "{}"},
    left_out=(), leads_to_record="", whole=("", ""), vague_after="{}我一会儿告诉你。",
    value_names={"money": "具体金额", "date": "具体日期", "int": "具体数量"},
    topics={"money": ("金额", "多少钱"), "date": ("日期", "哪天", "哪一天", "几号", "时间"),
            "int": ("数量", "几")},
    withheld="{}是{}。", change="办之前我要改一处：{}是{}。",
    how_much="多少", yes="要", no="不要", me="我", it="它",
    money="{}元", money_exact="{}元", short_amounts=True,
    day="{}月{}日", day_of_year="{2}年{0}月{1}日", done="都办好了。", looked="我查过了。", refused="按规定办不了的，已经回绝。",
    answer="{}是{}。", note=" This person writes Chinese: answer in Chinese.",
)  # fmt: skip

_LANGUAGES = {one.code: one for one in (ENGLISH, CHINESE)}


def language_of(words: Words) -> Language:
    """Return the language of a domain's words."""
    return _LANGUAGES[words.language]
