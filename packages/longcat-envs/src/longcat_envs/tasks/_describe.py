"""How a person speaks of a record, and the calls by which an agent finds it.

A noun names a record by some of its fields. It is used only if, among the records that have not
ended, one alone fits; every word of it that is looked up is a filter of the search.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from random import Random
from typing import Any

from longcat_envs.history import Setting, write_argument
from longcat_envs.lang import Type, show
from longcat_envs.world import Store

from ._language import language_of
from ._task import Step

SLOT = re.compile(r"\{(\w+)(?:\.(first|last))?\}")
_FILLED = re.compile(rf"(?:\b([Aa]) )?({SLOT.pattern})( [a-z]+)?")
"""A slot, with an article before it and the thing that is counted behind it."""


@dataclass(frozen=True, slots=True)
class Description:
    """Words for a record, and the steps to its id."""

    text: str
    steps: tuple[Step, ...] = ()


def fill(template: str, texts: Mapping[str, str]) -> str:
    """Put texts into the slots of a template: one thing in the singular, `an autumn share`."""

    def put(match: re.Match[str]) -> str:
        article, slot, _, _, word = match.groups()
        text, word = texts[slot], word or ""
        if article:
            article += "n " if text[:1] in set("aeioAEIO") else " "
        return (article or "") + text + (_singular(word) if text == "1" else word)

    return _FILLED.sub(put, template)


def _singular(word: str) -> str:
    if word == " people":
        return " person"
    if len(word) < 5 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("xes", "ches", "shes", "sses")) else word[:-1]


class Describer:
    """Describes records of one world as one person would."""

    def __init__(
        self, setting: Setting, store: Store, person: str, rng: Random, *, iso_dates: bool = False
    ) -> None:
        self.setting, self.store, self.person, self.rng = setting, store, person, rng
        self.spec, self.language = setting.spec, language_of(setting.words)
        if iso_dates:
            self.language = replace(self.language, day="")
        self.year = str(date.fromordinal(store.today).year)

    def me(self) -> Description:
        """Return the name by which the person is known, and how they are found."""
        of = self.spec.person
        row = self.store.row(of, self.person)
        key = next(f.name for f in self.spec.classes[of].fields.values()
                   if f.is_unique and f.type.kind == "text")  # fmt: skip
        step = Step(tool=f"search_{of}", arguments={key: row[key]}, thought=f"who the {of} is")
        return Description(row[key], (step,))

    def record(self, of: str, identifier: str, depth: int = 0) -> Description | None:
        """Describe a record; `None` if no noun singles it out."""
        if of == self.spec.person and identifier == self.person:
            return Description(self.language.me, self.me().steps)
        if depth > 3 or of not in self.setting.words.nouns:
            return None
        nouns = list(self.setting.words.nouns[of])
        self.rng.shuffle(nouns)
        for noun in nouns:
            found = self._by_noun(of, identifier, noun, depth)
            if found is not None:
                return found
        return None

    def _by_noun(self, of: str, identifier: str, noun: str, depth: int) -> Description | None:
        one, row = self.spec.classes[of], self.store.row(of, identifier)
        filters: dict[str, Any] = {}
        values: dict[str, Any] = {}
        texts: dict[str, str] = {}
        steps: list[Step] = []
        if one.owner is not None and len(one.owner) == 1:
            if row[one.owner[0]] != self.person:
                return None
            steps += self.me().steps
            filters[one.owner[0]] = values[one.owner[0]] = self.person
        for match in SLOT.finditer(noun):
            name, end = match[1], match[2]
            type_ = one.fields[name].type
            value = row[name]
            if type_.kind == "ref":
                inner = self.record(type_.of, value, depth + 1)
                if inner is None:
                    return None
                texts[match[0]] = inner.text
                steps += inner.steps
                filters[name] = values[name] = value
            elif type_.kind == "days":
                day = value[0 if end == "first" else 1]
                side = "from" if end == "first" else "until"
                filters[f"{name}_{side}"] = iso = str(show(Type("date"), day))
                texts[match[0]] = self.language.date(iso, self.year)
                values[f"{name} {end}"] = day
            else:
                filters.update(write_argument(name, type_, value))
                values[name] = value
                texts[match[0]] = self.language.field(type_, value, self.setting.words, self.year)
        if not self._is_alone(of, identifier, values):
            return None
        text = fill(noun, texts)
        words = of.replace("_", " ")
        steps.append(Step(tool=f"search_{of}", arguments=filters, thought=f"which {words}"))
        return Description(text, tuple(steps))

    def _is_alone(self, of: str, identifier: str, values: Mapping[str, Any]) -> bool:
        """Whether the record has not ended, and no other that has not ended fits."""
        ends = self.spec.classes[of].ends
        if not values or self.store.row(of, identifier).get("state") in ends:
            return False
        fitting = 0
        for other in self.store.ids(of):
            row = self.store.row(of, other)
            fitting += row.get("state") not in ends and all(
                _value(row, name) == value for name, value in values.items()
            )
        return fitting == 1


def _value(row: Mapping[str, Any], name: str) -> Any:
    field, _, end = name.partition(" ")
    return row[field][0 if end == "first" else 1] if end else row[field]


def unique_steps(steps: list[Step]) -> list[Step]:
    """Leave out searches that were made before, and looks since which nothing was written."""
    kept: list[Step] = []
    looked: list[Step] = []
    for step in steps:
        if step.tool.startswith("search_"):
            if step not in kept:
                kept.append(step)
        elif step.tool.startswith("get_"):
            if step not in looked:
                kept.append(step)
                looked.append(step)
        else:
            kept.append(step)
            looked = []
    return kept
