"""A person who has tools of their own and does with them what the agent asks for, by rules.

    the agent's message                             the person
    "Please call reset_apn_settings()."             does it, and says what came of it
    "Turn off airplane mode, then restart."         looks whether it is on; does both, in order
    "What does the status bar show?"                looks, and says it
    "I have turned it off." "Do not turn it off."   does nothing
    anything else                                   answers as any scripted person (`_person`)

An act is named by its tool, with its arguments as in a call or as JSON, or in plain words where the
set knows some (`Way`). A switch is set to what was asked for: one that is already so is left alone.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from longcat_envs._person import Person
from longcat_envs.tasks import Step

from ._types import Schema

MAX_ACTS = 100
"""Acts in one talk."""

Act = Callable[[str, dict[str, Any]], str]
"""Runs one of the person's tools; what is wrong with the call is an answer."""

_SENTENCE = re.compile(r"(?:[^.;!?\n]|[.;!?](?!\s))+[.;!?]*")
_SELF = r"(?:need|want|ask|would like|suggest|recommend)"
_NOT_MEANT = re.compile(
    r"n't\b|\b(?:not|never|without|no need|avoid|instead of|already|earlier|once"
    r"|(?:after|before)(?! (?:that|this)\b)|(?:shall|should|may|can|could|will|would) (?:i|we)"
    rf"|i'(?:ve|ll|m)|i'd(?! (?:like|{_SELF}) )|i(?!['\w]| {_SELF}\b)"
    r"|we (?:have|will|did|can|could)|we'(?:ve|ll)|they|(?:did|have|had|has) (?:you|it)"
    r"|you (?:have|had|did)|(?:want|like) me|me to)\b[^,:]*$",
    re.IGNORECASE,
)
"""Before an act: it is denied, was done, or is the agent's own."""
_BEFORE = 200
"""Characters before an act that are looked at."""
MAX_ARGUMENTS, MAX_BRACKETS = 5_000, 50
"""Characters and closing brackets behind a name that are read."""
_ON = re.compile(r"\b(?:on|enable[ds]?|activate[ds]?)\b", re.IGNORECASE)
_OFF = re.compile(r"\b(?:off|disable[ds]?|deactivate[ds]?)\b", re.IGNORECASE)
_IF = re.compile(r"\b(?:if|in case|unless)\b", re.IGNORECASE)


@runtime_checkable
class Handy(Protocol):
    """A person who is handed tools when the episode begins."""

    def take(self, tools: Sequence[Schema], act: Act) -> None:
        """Take the tools, and what runs them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How one asks for an act in plain words."""

    tool: str
    words: re.Pattern[str]
    """What is found in a sentence that asks for it."""
    fill: Callable[[str], list[dict[str, Any]]] = lambda sentence: [{}]
    """Reads the arguments of one call after another out of the sentence."""
    look: tuple[str, re.Pattern[str]] | None = None
    """For a switch: the tool that shows it, and where its answer says that it is on or off."""


@dataclass(frozen=True, slots=True)
class _Wish:
    place: int
    step: Step
    way: Way | None = None
    wanted: bool | None = None
    """Whether a switch should be on; none to change it, whatever it is."""


def request(steps: Sequence[Step]) -> str:
    """Write what asks a person for acts, one after another."""
    calls = ", ".join(
        f"{step.tool}({', '.join(f'{k}={v!r}' for k, v in step.arguments.items())})"
        for step in steps
    )
    return f"Please do this on your side and tell me what you see: {calls}."


class Hands:
    """One person with tools in one talk."""

    was_asked = False

    def __init__(self, opening: str, ways: Sequence[Way] = ()) -> None:
        self._base, self._ways, self._num_acts = Person(opening, ""), tuple(ways), 0
        self._parameters: dict[str, list[str]] = {}
        self._required: dict[str, list[str]] = {}
        self._giver: tuple[str, str] | None = None
        """The tool that runs what the agent has given the person, and its argument for the name."""
        self._act: Act = lambda name, arguments: "Error: there is nothing at hand"

    def take(self, tools: Sequence[Schema], act: Act) -> None:
        """Take the tools, and what runs them."""
        self._act = act
        for function in (tool["function"] for tool in tools):
            given: dict[str, Any] = function["parameters"]
            self._parameters[function["name"]] = list(given.get("properties", {}))
            self._required[function["name"]] = list(given.get("required", ()))
            names = [one for one in given.get("properties", {}) if one.endswith("tool_name")]
            if names and "arguments" in given["properties"]:
                self._giver = (function["name"], names[0])

    def answer(self, text: str) -> str | None:
        """Do what is asked for and say what came of it, or answer; `None` ends the talk."""
        wishes = self._wishes(text)
        if not wishes:
            return self._base.answer(text)
        if self._num_acts + len(wishes) > MAX_ACTS:
            return None
        return "\n".join(self._do(wish) for wish in wishes)

    def _wishes(self, text: str) -> list[_Wish]:
        """Find the acts that a message asks for, in order."""
        text = text.replace("’", "'")
        found = self._named(text)
        named = [wish.place for wish in found]
        for sentence in _SENTENCE.finditer(text):
            start, end = sentence.span()
            if not any(start <= place < end for place in named):
                found += self._in_words(sentence[0], start)
        return sorted(found, key=lambda wish: wish.place)

    def _named(self, text: str) -> list[_Wish]:
        """Find acts that are named by their tool."""
        found: list[_Wish] = []
        end = 0
        for match in re.finditer(r"\b\w+\b", text):
            name = match[0]
            is_own, is_given = name in self._parameters, self._giver is not None and "_" in name
            if (
                not (is_own or is_given)
                or match.start() < end
                or not _is_meant(text, match.start())
            ):
                continue
            arguments, length = arguments_after(text[match.end() :], self._parameters.get(name, ()))
            step = Step(tool=name, arguments=arguments)
            if not is_own:
                if not length or self._giver is None:
                    continue
                tool, of = self._giver
                step = Step(tool=tool, arguments={of: name, "arguments": json.dumps(arguments)})
            end = match.end() + length
            found.append(_Wish(match.start(), step))
        return found

    def _in_words(self, sentence: str, place: int) -> list[_Wish]:
        """Find acts that are asked for in plain words; of several at one place the longest."""
        found = [
            (match.start(), match.end(), way, match[0])
            for way in self._ways if way.tool in self._parameters
            for match in way.words.finditer(sentence) if _is_meant(sentence, match.start())
        ]  # fmt: skip
        wishes: list[_Wish] = []
        end = -1
        for start, stop, way, words in sorted(found, key=lambda one: (one[0], -one[1])):
            if start < end:
                continue
            end = stop
            wanted = _wanted(words + sentence[stop : stop + 12]) if way.look else None
            if _IF.search(sentence[:start]) and wanted is None:
                continue  # what it depends on is not known here
            wishes += [_Wish(place + start, Step(tool=way.tool, arguments=arguments), way, wanted)
                       for arguments in way.fill(sentence)]  # fmt: skip
        return wishes

    def _do(self, wish: _Wish) -> str:
        """Do one act; return what is said of it."""
        name, arguments = wish.step.tool, wish.step.arguments
        missing = [one for one in self._required[name] if one not in arguments]
        if missing:
            return f"{name}: what should I give for {' and '.join(missing)}?"
        if wish.wanted is not None and self._is_on(wish.way) is wish.wanted:
            return f"{name}: it is {'on' if wish.wanted else 'off'} already."
        self._num_acts += 1
        return f"{name}: {self._act(name, arguments)}"

    def _is_on(self, way: Way | None) -> bool | None:
        """Look whether a switch is on; `None` if one cannot see it."""
        if way is None or way.look is None:
            return None
        tool, where = way.look
        shown = where.search(self._act(tool, {})) if tool in self._parameters else None
        return None if shown is None else shown[1].casefold() in ("on", "yes")


def _wanted(words: str) -> bool | None:
    if _OFF.search(words):
        return False
    return True if _ON.search(words) else None


def _is_meant(text: str, place: int) -> bool:
    """Whether an act at a place is asked for: what stands before it in its sentence decides."""
    before = text[max(0, place - _BEFORE) : place]
    last = [match[0] for match in _SENTENCE.finditer(before)][-1:]
    return not last or before.endswith((". ", "\n")) or not _NOT_MEANT.search(last[0])


def arguments_after(text: str, parameters: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Read arguments behind a tool's name: `(a='x', b=2)`, `{"a": "x"}` or nothing.

    Returns:
        The arguments, and how many characters they take.
    """
    text = text[:MAX_ARGUMENTS]
    brace = re.match(r"[^(){}.!?]{0,40}(?=\{)", text)
    try:
        if brace is not None:
            value, end = json.JSONDecoder().raw_decode(text, brace.end())
            return cast("dict[str, Any]", value), end
        if text.startswith("("):
            with warnings.catch_warnings():  # such as of `\d` in a text
                warnings.simplefilter("ignore")
                return _call_arguments(text, parameters)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    return {}, 0


def _call_arguments(text: str, parameters: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Read `(a='x', b=2)` at the start of a text; nothing is executed.

    Raises:
        ValueError: It is not closed, or holds more than literals.
    """
    for end in [match.end() for match in re.finditer(r"\)", text)][:MAX_BRACKETS]:
        try:
            node = ast.parse(f"f{text[:end]}", mode="eval").body
        except SyntaxError:
            continue  # a bracket within a text
        if isinstance(node, ast.Call):
            values = [ast.literal_eval(one) for one in node.args]
            named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
            return {**dict(zip(parameters, values, strict=False)), **named}, end
    raise ValueError("not closed")
