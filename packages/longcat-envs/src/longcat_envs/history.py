"""Worlds with a past: simulated weeks of the domain's own calls, from an empty valid state.

- Every record was made, and every change done, by a tool that could have refused.
- Who acts pursues what they own: the arguments of a call belong to one person.
- Tools that have seldom succeeded are tried first; a tool below `LEAST` is listed as dead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from longcat_envs._fields import DomainError
from longcat_envs.lang import Spec, Type, show
from longcat_envs.world import (
    ID_DIGITS,
    Base,
    CallRefused,
    LiveWorld,
    Machine,
    Store,
    Tool,
    empty_base,
    load_machine,
    load_source,
)
from longcat_envs.world._words import LANGUAGES, Words, read_words

FIRST_DAY = 739_621
"""Monday 2026-01-05."""

MIN_ID_DIGITS, MAX_ID_DIGITS = 2, 8
NUM_DAYS = 60
CALLS_PER_DAY = 75
LEAST = 5
"""Successes below which a tool is dead."""

NUM_PEOPLE = 24
TRIES = 10
MAX_ENDED = 0.5
"""Share of records made by tools that have ended, beyond which no more of their class are ended."""

MIN_LIVE = 0.6
"""Share of the number a class should have, below which no more of its records are ended."""


@dataclass(frozen=True, slots=True)
class History:
    """A base and how it came about."""

    base: Base
    successes: dict[str, int]
    refusals: int
    dead: tuple[str, ...]
    """Writing tools that succeeded fewer than `LEAST` times."""


def owned(store: Store, of: str, person: str) -> tuple[str, ...]:
    """Return the records of a class that belong to a person."""
    owner = store.spec.classes[of].owner
    if owner is None:
        return ()
    if not owner:
        return (person,)
    way = [of]
    for name in owner[:-1]:
        way.append(store.spec.classes[way[-1]].fields[name].type.of)
    here: tuple[str, ...] = (person,)
    for name, at in zip(reversed(owner), reversed(way), strict=True):
        here = tuple(i for identifier in here for i in store.by(at, name, identifier))
    return here


def owner_of(store: Store, of: str, identifier: str) -> str | None:
    """Return the person to whom a record belongs."""
    owner = store.spec.classes[of].owner
    if owner is None:
        return None
    for name in owner:
        type_ = store.spec.classes[of].fields[name].type
        identifier, of = store.row(of, identifier)[name], type_.of
    return identifier


def value_keys(tool: Tool, name: str) -> tuple[str, ...]:
    """Return the names under which the words may speak of an argument."""
    action = tool.action
    field = action.edits if action is not None and action.edits else name
    plain = field.removesuffix("_new")
    return (f"{tool.name}.{name}", f"{tool.of}.{field}", f"{tool.of}.{plain}")


class Caller:
    """Draws calls that make sense: coherent references and values from the words."""

    def __init__(self, world: LiveWorld, words: Words, rng: Random) -> None:
        self.world, self.words, self.rng = world, words, rng
        self.spec: Spec = world.machine.spec

    def draw(self, tool: Tool, person: str | None) -> dict[str, Any] | None:
        """Draw arguments for a tool, on behalf of a person if one is given."""
        arguments: dict[str, Any] = {}
        action = tool.action
        assert action is not None
        for one in tool.parameters:
            if one.type.kind == "ref":
                is_self = one.name == f"{tool.of}_id" and not action.makes_record
                is_theirs = is_self or self._is_owner(tool.of, one.name)
                whose = person if is_theirs or one.type.of != self.spec.person else None
                options = self.options(one.type, whose, action.sources if is_self else ())
                if not options:
                    return None
                arguments[one.name] = self.rng.choice(options)
            else:
                keys = self.keys(tool, one.name)
                value = self.words.draw(keys, one.type, self.rng, self.world.store.today)
                arguments.update(write_argument(one.name, one.type, value))
        return arguments

    def _is_owner(self, of: str, name: str) -> bool:
        """Whether a field is how a record of the class leads to its person."""
        owner = self.spec.classes[of].owner
        return owner is not None and owner[:1] == (name,)

    def keys(self, tool: Tool, name: str) -> tuple[str, ...]:
        """Return the names under which the words may speak of an argument."""
        return value_keys(tool, name)

    def options(self, type_: Type, person: str | None, states: tuple[str, ...]) -> list[str]:
        """Return the records that may be meant: a person's own, or anybody's if none owns them."""
        store, of = self.world.store, type_.of
        has_owner = self.spec.classes[of].owner is not None
        if person is not None and has_owner:
            ids: Any = owned(store, of, person)
        else:
            ids = store.ids(of)
        if states:
            return store.in_states(of, ids, states)
        return list(ids)


def write_argument(name: str, type_: Type, value: Any) -> dict[str, Any]:
    """Write a value as a call has it; an interval is two arguments."""
    if type_.kind == "days":
        first, last = show(type_, value)
        return {f"{name}_from": first, f"{name}_until": last}
    return {name: show(type_, value)}


class _Past:
    def __init__(self, machine: Machine, words: Words, seed: int, id_digits: int) -> None:
        self.machine, self.words = machine, words
        self.rng = Random(f"{machine.spec.name}:{seed}")
        self.world = LiveWorld(machine, empty_base(machine.spec, FIRST_DAY, id_digits))
        self.caller = Caller(self.world, words, self.rng)
        self.successes: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.refusals = 0
        self.writers = [tool for tool in machine.tools.values() if tool.is_writer]
        self.creators = [t for t in self.writers if t.action and t.action.makes_record]
        self.live = [t for t in self.writers if t.action and not t.action.makes_record]

    def run(self) -> History:
        """Live through the weeks."""
        for day in range(NUM_DAYS):
            for tool in self.creators:
                self._create(tool, day)
            for _ in range(CALLS_PER_DAY):
                self._act()
            if day > NUM_DAYS // 3:
                self._pursue()
            self.world.store.today += 1
        broken = self.machine.violations(self.world.store)
        if broken:
            raise AssertionError(f"the past broke its own rules: {broken[0]}")
        dead = tuple(t.name for t in self.writers if self.successes[t.name] < LEAST)
        return History(self.world.store.freeze(), dict(self.successes), self.refusals, dead)

    def _number(self, of: str) -> int:
        spec = self.machine.spec
        default = NUM_PEOPLE if of == spec.person else 8
        if spec.classes[of].owner:
            default = NUM_PEOPLE * 3 // 2
        return self.words.numbers.get(of, default)

    def _create(self, tool: Tool, day: int) -> None:
        """Most records are there after a third of the time; the rest come one by one."""
        wanted = min(1.0, 3 * (day + 1) / NUM_DAYS) * self._number(tool.of)
        wanted += day * self._number(tool.of) / NUM_DAYS / 2
        have = len(self.world.store.ids(tool.of)) - self._num_ended(tool.of)
        for _ in range(TRIES):
            if have >= wanted:
                return
            have += self._try(tool)

    def _act(self) -> None:
        """Call a tool: any, or of a few drawn the one that has succeeded least often."""
        drawn = self.rng.sample(self.live, min(self.rng.choice((1, 1, 1, 6)), len(self.live)))
        tool = min(drawn, key=lambda t: self.successes[t.name] + self.tries[t.name] / 250)
        if self._would_empty(tool):
            return
        for _ in range(TRIES):
            if self._try(tool):
                return

    def _num_ended(self, of: str) -> int:
        ends = sorted(self.machine.spec.classes[of].ends)
        return sum(len(self.world.store.by(of, "state", end)) for end in ends)

    def _would_empty(self, tool: Tool) -> bool:
        """Whether a tool would end one more record of a class that has few left."""
        action = tool.action
        if action is None or action.target not in self.machine.spec.classes[tool.of].ends:
            return False
        num, ended = len(self.world.store.ids(tool.of)), self._num_ended(tool.of)
        is_few = num - ended < MIN_LIVE * self._number(tool.of)
        if self.machine.spec.classes[tool.of].is_made_by_tools:
            is_few = ended > MAX_ENDED * num
        return self.successes[tool.name] >= LEAST and is_few

    def _pursue(self) -> None:
        """Try what has hardly ever succeeded, and what changes what it depends on."""
        for tool in self.writers:
            if self.successes[tool.name] > LEAST:
                continue
            if not any(self._try(tool) for _ in range(TRIES)):
                for other in self._feeders(tool):
                    self._try(other)
                any(self._try(tool) for _ in range(TRIES))

    def _feeders(self, tool: Tool) -> list[Tool]:
        """Return the acts that change what the guards of a tool read, and end nothing."""
        assert tool.action is not None
        read = frozenset[str]().union(*(guard.reads for guard in tool.action.guards))
        classes = self.machine.spec.classes
        return [
            other for other in self.writers
            if other.name != tool.name and other.writes & read and other.action is not None
            and not other.action.makes_record and other.action.target not in classes[other.of].ends
        ]  # fmt: skip

    def _person(self, tool: Tool) -> str | None:
        """Return somebody who has a record that the tool may act on, or anybody."""
        store, action = self.world.store, tool.action
        assert action is not None
        if not action.makes_record and self.machine.spec.classes[tool.of].owner:
            states = action.sources or ("",)
            ids = [i for state in states for i in store.by(tool.of, "state", state)]
            ids = ids or ([] if action.sources else store.ids(tool.of))
            return owner_of(store, tool.of, self.rng.choice(ids)) if ids else None
        people = store.ids(self.machine.spec.person)
        return self.rng.choice(people) if people else None

    def _try(self, tool: Tool) -> bool:
        person = self._person(tool)
        self.tries[tool.name] += 1
        arguments = self.caller.draw(tool, person)
        if arguments is None:
            return False
        try:
            self.world.call(tool.name, arguments)
        except CallRefused:
            self.refusals += 1
            return False
        self.successes[tool.name] += 1
        return True


def live_through(machine: Machine, words: Words, seed: int, id_digits: int = ID_DIGITS) -> History:
    """Return the past of one domain and seed."""
    return _Past(machine, words, seed, id_digits).run()


@dataclass(frozen=True, slots=True)
class Setting:
    """A domain made ready: its machine, its words, and its pasts."""

    machine: Machine
    words: Words
    id_digits: int = ID_DIGITS
    """Digits of the ids of records; fewer are easier to copy for a small model."""

    @property
    def spec(self) -> Spec:
        """The domain."""
        return self.machine.spec

    def past(self, seed: int) -> History:
        """Return the past of a seed; kept once lived through."""
        return _past(self, seed)

    def __hash__(self) -> int:
        return hash((id(self.machine), id(self.words), self.id_digits))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Setting)
            and other.machine is self.machine and other.words is self.words
            and other.id_digits == self.id_digits
        )  # fmt: skip


@lru_cache(maxsize=256)
def _past(setting: Setting, seed: int) -> History:
    return live_through(setting.machine, setting.words, seed, setting.id_digits)


def languages(name_or_path: str | Path) -> tuple[str, ...]:
    """Return the languages in which a domain has words; English always."""
    others = [one for one in LANGUAGES if one != "en"]
    return ("en", *(one for one in others if load_source(name_or_path, f".words.{one}")[0]))


def load_setting(
    name_or_path: str | Path, language: str = "en", *, id_digits: int = ID_DIGITS
) -> Setting:
    """Read a domain with its words; what has not changed is read once.

    Args:
        name_or_path: A shipped domain, or a file.
        language: The language in which people speak.
        id_digits: Digits of the ids of records, 2 to 8; a class of more records than there are
            such numbers goes on with one digit more.

    Raises:
        ValueError: No id can have so many digits.
        DomainError: There is no such domain, it has no such words, or a file breaks a rule.
    """
    if not MIN_ID_DIGITS <= id_digits <= MAX_ID_DIGITS:
        raise ValueError(f"id_digits must be {MIN_ID_DIGITS} to {MAX_ID_DIGITS}, got {id_digits!r}")
    if language not in languages(name_or_path):
        raise DomainError(f"the words of {name_or_path} must be in one of "
                          f"{', '.join(languages(name_or_path))}, got {language!r}")  # fmt: skip
    files = tuple(load_source(name_or_path, f".words.{one}") for one in {"en": 0, language: 0})
    return _setting(name_or_path, load_source(name_or_path), files, language, id_digits)


@lru_cache(maxsize=64)
def _setting(
    name_or_path: str | Path, _rules: tuple[str, str], files: tuple[tuple[str, str], ...],
    language: str, id_digits: int,
) -> Setting:  # fmt: skip
    machine = load_machine(name_or_path)
    words = read_words(files[0][0], machine.spec, files[0][1])
    for text, file in files[1:]:
        words = read_words(text, machine.spec, file, language=language, base=words)
    return Setting(machine, words, id_digits)


def all_owned(store: Store, person: str) -> Iterator[tuple[str, str]]:
    """Yield every record of a person as (class, id)."""
    for of in store.spec.classes:
        for identifier in owned(store, of, person):
            yield of, identifier
