"""The words of a domain: beside its rules, in a file of their own, one line a thing.

title: the counter of a bank
number account: 40                            records at the start, about
value account.overdraft: 0 | 200 | 500        options
value withdraw_account.amount: 20..400 by 10  a range
value rental.term: +2..+20 for 3..9           days from today, and how many
value customer.name: person                   a kind of text (`_names.py`)
noun account: my {kind} account               how its owner names a record
ask close_account: close {self} | ...         how they ask for it
figure account.balance: what is on {self}     how they speak of a number
say night_and_day: day and night              how they say an option; else as it is written
name withdraw_account.amount: sum | amount    what an argument is called when it is asked for

In another language than English (`NAME.words.zh`) numbers and values are those of English unless
the file has its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from random import Random
from typing import Any

from longcat_envs._fields import DomainError
from longcat_envs.lang import Spec, Type

from ._names import POOLS

Draw = Callable[[Random, int], Any]
"""From a generator and today to a value."""

MAX_RECORDS = 100_000
"""Records of one class that words may ask for."""
KINDS = ("title", "you", "number", "value", "noun", "ask", "figure", "say", "name")
LANGUAGES = tuple(POOLS)
"""Languages in which people speak, by the ends of file names."""


@dataclass(slots=True)
class Words:
    """What is said in a domain, and which values its fields take."""

    title: str = ""
    you: str = ""
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    values: dict[str, str] = field(default_factory=dict[str, str])
    nouns: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    asks: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    figures: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    spoken: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    language: str = "en"

    def say(self, option: str) -> str:
        """Return how people say an option or a state."""
        return self.spoken.get(option, option.replace("_", " "))

    def draw(self, keys: tuple[str, ...], type_: Type, rng: Random, today: int) -> Any:
        """Draw a value of a type; the first key with words of its own decides.

        References are not drawn here.
        """
        text = next((self.values[key] for key in keys if key in self.values), "")
        return _draw(text, type_, rng, today, self.language)


def read_words(
    text: str, spec: Spec, file: str = "", *, language: str = "en", base: Words | None = None
) -> Words:
    """Read a file of words.

    Args:
        text: What stands in it.
        spec: The domain.
        file: Its name, for errors.
        language: The language of what is said.
        base: Words whose title, numbers and values stand where the file has none.

    Raises:
        DomainError: A line breaks a rule; the error names file and line.
    """
    words = Words(title=spec.title, language=language)
    if base is not None:
        words.title, words.you = base.title, base.you
        words.numbers, words.values = dict(base.numbers), dict(base.values)
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"(\w+)(?: ([\w.]+))?: *(.+)", line)
        if found is None or found[1] not in KINDS:
            raise DomainError(f"{file}:{number}:1: a line is {', '.join(KINDS)}, a name, a colon "
                              f"words, got {line[:60]!r}")  # fmt: skip
        kind, name, rest = found[1], found[2] or "", found[3]
        try:
            _add(words, spec, kind, name, rest)
        except (ValueError, KeyError) as error:
            raise DomainError(f"{file}:{number}:1: {kind} {name}: {error}") from None
    return words


def _add(words: Words, spec: Spec, kind: str, name: str, rest: str) -> None:
    options = tuple(option.strip() for option in rest.split("|"))
    if kind in ("title", "you"):
        setattr(words, kind, rest)
    elif kind == "number":
        _known("a class", name, spec.classes)
        words.numbers[name] = int(rest)
        if not 0 <= words.numbers[name] <= MAX_RECORDS:
            raise ValueError(f"must be from 0 to {MAX_RECORDS}, got {rest}")
    elif kind == "value":
        type_ = _type_of(spec, name)
        if type_.kind in ("int", "money", "date", "days"):
            _draw(rest, type_, Random(0), 0)
        words.values[name] = rest
    elif kind == "noun":
        _known("a class", name, spec.classes)
        _slots(options, spec.classes[name].fields, ())
        words.nouns[name] = options
    elif kind == "ask":
        _known("a writing tool", name, spec.actions)
        action = spec.actions[name]
        names = [n for n, t in action.parameters if t.kind != "ref" and not t.is_optional]
        known = [n for n, _ in action.parameters]
        known += [] if action.makes_record else ["self"]
        _slots(options, known, names)
        words.asks[name] = options
    elif kind == "figure":
        of, _, value = name.partition(".")
        _known("a class", of, spec.classes)
        one = spec.classes[of]
        _known("a value", value, {**one.fields, **one.derived})
        words.figures[name] = options
    elif kind == "say":
        _known("an option or a state", name, _options(spec))
        words.spoken[name] = rest
    elif kind == "name":
        of, _, value = name.partition(".")
        _known("a writing tool", of, spec.actions)
        _known("an argument", value, dict(spec.actions[of].parameters))
        words.names[name] = options


def _options(spec: Spec) -> set[str]:
    """Return every option and state of a domain."""
    types = [f.type.plain for one in spec.classes.values() for f in one.fields.values()]
    types += [t.plain for action in spec.actions.values() for _, t in action.parameters]
    found = {option for type_ in types if type_.kind == "enum" for option in type_.options}
    return found.union(*(one.states for one in spec.classes.values()))


def _type_of(spec: Spec, name: str) -> Type:
    """The type of a field, or of a tool's argument."""
    of, _, field_name = name.partition(".")
    _known("a class or a tool", of, {**spec.classes, **spec.actions})
    if of in spec.classes:
        fields = {one.name: one.type for one in spec.classes[of].fields.values()}
    else:
        fields = dict(spec.actions[of].parameters)
    _known("a value", field_name, fields)
    return fields[field_name].plain


def _known(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(f"{what} must be among {', '.join(sorted(known))[:200]}, got {name!r}")


def _slots(options: tuple[str, ...], known: Collection[str], needed: Collection[str]) -> None:
    """Every slot must be known, and every value that is needed must be said."""
    for option in options:
        slots = re.findall(r"\{(\w+)(?:\.(?:first|last))?\}", option)
        for slot in slots:
            _known("a slot", slot, known)
        if re.search(r"[{}]", re.sub(r"\{\w+(\.(first|last))?\}", "", option)):
            raise ValueError(f"a slot is {{name}}, got {option!r}")
        for name in needed:
            if name not in slots:
                raise ValueError(f"{option!r} does not say {{{name}}}")


def _draw(text: str, type_: Type, rng: Random, today: int, language: str = "en") -> Any:
    if type_.kind in ("text", "enum"):
        return _text(text, type_, rng, language)
    if type_.kind == "flag":
        return rng.random() < 0.5
    if type_.kind == "date":
        low, high, _ = _range(text or "+1..+14")
        return today + rng.randint(low, high)
    if type_.kind == "days":
        start, _, length = (text or "+1..+20 for 2..6").partition(" for ")
        low, high, _ = _range(start)
        first = today + rng.randint(low, high)
        least, most, _ = _range(length or "2..6")
        return first, first + rng.randint(least, most)
    scale = 100 if type_.kind == "money" else 1
    if "|" in text:
        return int(rng.choice(text.split("|")).strip()) * scale
    low, high, step = _range(text or ("10..400 by 5" if scale == 100 else "1..9"))
    return (low + step * rng.randrange((high - low) // step + 1)) * scale


def _text(text: str, type_: Type, rng: Random, language: str) -> str:
    if type_.kind == "enum":
        return rng.choice(text.split("|")).strip() if text else rng.choice(type_.options)
    pools = POOLS[language]
    if text in pools:
        return pools[text](rng)
    if text:
        return rng.choice([option.strip() for option in text.split("|")])
    return pools["tag"](rng)


def _range(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"\+?(-?\d+)\.\.\+?(-?\d+)(?: by (\d+))?", text.strip())
    if found is None:
        raise ValueError(f"a range is such as 20..400 by 10 or +1..+14, got {text!r}")
    low, high, step = int(found[1]), int(found[2]), int(found[3] or 1)
    if low > high or step < 1:
        raise ValueError(f"a range must rise, in steps of 1 or more, got {text!r}")
    return low, high, step
