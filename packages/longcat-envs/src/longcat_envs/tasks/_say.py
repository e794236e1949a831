"""From calls to sentences and back to the steps that an agent needs for them.

A sentence takes one of the domain's ways of asking and fills it with the words for records and
values. What all domains of a language share is in `_language.py`.
An opening is composed of a greeting, who speaks, frames around the sentences, and an end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from longcat_envs.history import Setting
from longcat_envs.lang import Type, show
from longcat_envs.world import Parameter

from ._call import Call, Figure
from ._chain import Chains
from ._describe import SLOT, Describer, Description, fill
from ._figures import value_of
from ._goal import Tell
from ._phrases import left_out, named_once
from ._task import Step

_SEVERAL = re.compile(r"\w+ \w+s(?= (?:of|at|on|for|from|to|that|in)\b|$)")
"""Words for several things: `my bottles of wine`, and not `my savings account`."""

SHARE_NO_END = 0.7
"""Of the openings after which more is asked for, those that do not thank yet."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A wish in words, and the steps that fulfil it."""

    text: str
    steps: tuple[Step, ...]
    is_order: bool = True
    """Whether it tells somebody to do something, such as `close my account`."""
    after: str = ""
    """A sentence that goes with it."""


@dataclass(frozen=True, slots=True)
class Vague:
    """A value that a sentence leaves out or gets wrong at first."""

    argument: str
    words: str
    after: str = ""
    is_withheld: bool = True


class Speaker:
    """Puts wishes of one person into words."""

    def __init__(
        self, setting: Setting, chains: Chains, rng: Random, *, iso_dates: bool = False
    ) -> None:
        self.setting, self.chains, self.rng = setting, chains, rng
        self.describer = Describer(
            setting, chains.world.store, chains.person, rng, iso_dates=iso_dates
        )
        self.language, self._last_way = self.describer.language, ""

    def wish(self, call: Call, vague: Vague | None = None) -> Sentence | None:
        """Say a call in the world as it stands; `None` if its records have no words."""
        tool = self.setting.machine.tools[call.tool]
        types = {one.name: one.type for one in tool.parameters}
        template = self._way(call, vague)
        texts: dict[str, str] = {}
        steps: list[Step] = list(self.describer.me().steps)
        spoken_of: dict[tuple[str, str], str] = {}
        for match in SLOT.finditer(template):
            name = f"{tool.of}_id" if match[1] == "self" else match[1]
            if match[2]:
                side = "from" if match[2] == "first" else "until"
                day = str(call.arguments[f"{name}_{side}"])
                texts[match[0]] = self.language.date(day, self.describer.year)
            elif name in call.computed:
                figure = self.figure(call.computed[name], spoken_of)
                if figure is None:
                    return None
                texts[match[0]] = self._whole(figure.text)
                steps += figure.steps
            elif types[name].kind == "ref":
                found = self._record(types[name].of, call.arguments[name], spoken_of)
                if found is None:
                    return None
                texts[match[0]] = found.text
                steps += found.steps
            elif vague is not None and vague.argument == name:
                texts[match[0]] = vague.words
            else:
                texts[match[0]] = self.argument(types[name], call.arguments[name])
        said = {figure.id for figure in call.computed.values()}
        for name in types:  # what goes without saying is the person, or what was just made
            if call.arguments.get(name) in said:
                continue
            if types[name].kind == "ref" and not self._is_mentioned(template, tool.of, name):
                value = call.arguments[name]
                if value != self.chains.person and not self._is_new(types[name].of, value):
                    return None
        steps.append(Step(tool=call.tool, arguments=call.arguments, thought="do it"))
        after = vague.after if vague is not None else ""
        is_order = self.language.is_order(template)
        return Sentence(fill(template, texts), tuple(steps), is_order, after)

    def _way(self, call: Call, vague: Vague | None) -> str:
        """Choose a way of asking; with a value left out, one that can do without it if any can.

        A record is not named beside an amount of it.
        """
        ways = list(self.setting.words.asks[call.tool])
        if vague is not None and vague.is_withheld:
            without = [one for way in ways if (one := self._without(way, vague.argument))]
            ways = without or [w for w in ways if f"{{{vague.argument}}}" in w]
        for amount, figure in call.computed.items():
            if slot := self._slot(call, figure):
                pattern = self.language.leads_to_record
                short = [one for w in ways if (one := named_once(w, slot, amount, pattern))]
                ways = short or ways
        return self.rng.choice(ways)

    def _slot(self, call: Call, figure: Figure) -> str:
        """Return the slot of the record of a figure, if the call names it and words may not."""
        tool = self.setting.machine.tools[call.tool]
        names = (p.name for p in tool.parameters
                 if p.type.of == figure.of and call.arguments[p.name] == figure.id)  # fmt: skip
        name = next(names, "") if self.language.leads_to_record else ""
        return "self" if name == f"{tool.of}_id" else name

    def _without(self, way: str, argument: str) -> str:
        """Leave out a value; empty if that cannot be."""
        return left_out(way, argument, self.language.left_out)

    def can_leave_out(self, tool: str, one: Parameter) -> bool:
        """Whether there is a way to ask for something and not say this value."""
        ways = self.setting.words.asks[tool]
        if self.language.left_out:
            return any(self._without(way, one.name) for way in ways)
        return one.type.kind in self.language.vague and f"{{{one.name}}}" in " ".join(ways)

    def _whole(self, text: str) -> str:
        """Say that all of an amount is meant."""
        short, long = self.language.whole
        return long + text[len(short) :] if short and text.startswith(short) else text

    def argument(self, type_: Type, value: Any) -> str:
        """Write an argument of a call as the person says it."""
        return self.language.argument(type_, value, self.setting.words, self.describer.year)

    def _is_mentioned(self, template: str, of: str, name: str) -> bool:
        return "{" + ("self" if name == f"{of}_id" else name) + "}" in template

    def _is_new(self, of: str, identifier: str) -> bool:
        return identifier not in self.chains.world.store.base.rows[of]

    def _record(
        self, of: str, identifier: str, spoken_of: dict[tuple[str, str], str]
    ) -> Description | None:
        """Describe a record; one that was just spoken of is `it`, and found already."""
        if self._can_be_it(spoken_of.get((of, identifier), self.language.me)):
            return Description(self.language.it)
        found = self.describer.record(of, identifier)
        if found is not None:
            spoken_of[of, identifier] = found.text
        return found

    def figure(
        self, figure: Figure, spoken_of: dict[tuple[str, str], str] | None = None
    ) -> Sentence | None:
        """Say a number of a record.

        Args:
            figure: What is said.
            spoken_of: Words of the records that were just spoken of; this one is added.
        """
        template = self.rng.choice(self.setting.words.figures[f"{figure.of}.{figure.name}"])
        found = self._record(figure.of, figure.id, {} if spoken_of is None else spoken_of)
        if found is None:
            return None
        look = Step(tool=f"get_{figure.of}", arguments={f"{figure.of}_id": figure.id},
                    thought=f"see the {figure.name.replace('_', ' ')}")  # fmt: skip
        return Sentence(template.replace("{self}", found.text), (*found.steps, look))

    def tell(self, figure: Figure) -> Tell | None:
        """Return the figure as something to be told, in the world as it stands."""
        one = self.setting.spec.classes[figure.of]
        type_ = (one.fields[figure.name].type if figure.name in one.fields else
                 one.derived[figure.name].type)  # fmt: skip
        if type_.kind not in ("money", "int", "date") or type_.is_optional:
            return None
        value = str(show(type_, value_of(self.chains, figure)))
        what = f"{figure.name.replace('_', ' ')} of {figure.of.replace('_', ' ')}"
        return Tell(what=what, kind=type_.kind, value=value)

    def opening(self, sentences: Sequence[str], name: str, *, has_more: bool = False) -> str:
        """Compose what the person says first; `has_more` if there are further wishes."""
        rng, words = self.rng, self.language
        greeting, who = rng.choice(words.greetings), rng.choice(words.names).format(name)
        if not greeting or greeting.endswith("."):
            who = who[0].upper() + who[1:]
        hint = rng.choice(words.several) if has_more else ""
        end = "" if has_more and rng.random() < SHARE_NO_END else rng.choice(words.ends)
        parts = [greeting, who, hint, *(_upper(text) for text in sentences), end]
        return words.space.join(part for part in parts if part)

    def frame(self, sentence: Sentence, ways: Sequence[str] = ("{}",)) -> str:
        """Put a sentence into a frame, and that into another."""
        bare = "{}" + self.language.stop
        is_framed = sentence.is_order and self.rng.random() < 0.7
        frames = self.language.short_frames if ", " in sentence.text else self.language.frames
        frame = self.rng.choice(frames) if is_framed else bare
        inner = frame.format(sentence.text).replace("?.", "?").replace("??", "?")
        if not sentence.is_order:  # nobody says `Now my number has changed`
            ways = [one for one in ways if one not in self.language.hasty] or ways
        way = self.rng.choice([one for one in ways if one != self._last_way] or list(ways))
        self._last_way = way
        if way.endswith(". {}"):
            inner = _upper(inner)
        elif way[0] != "{":
            inner = inner[0].lower() + inner[1:] if not inner.startswith("I ") else inner
        return self.language.space.join(filter(None, (_upper(way.format(inner)), sentence.after)))

    def _can_be_it(self, text: str) -> bool:
        """Whether what these words name can be `it`: no person, and not several things."""
        return text != self.language.me and not _SEVERAL.match(text)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:] if text else text
