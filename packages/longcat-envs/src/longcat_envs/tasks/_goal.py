"""Goals: a predicate over the difference, the events and what was told; and its judgement.

A goal says what the chosen chain changed, made, caused and told, not by which calls: every chain
with the same effects reaches it. Records made in an episode are compared by what they hold, as
their ids depend on the order of calls.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from longcat_envs._person import own_words, without_own_words
from longcat_envs._plain import plain
from longcat_envs._told import Finder, by_pattern, canonical_number, dates, numbers, says, told
from longcat_envs.lang import Spec, Type, show
from longcat_envs.world import Event, LiveWorld

TellKind = Literal["money", "int", "date", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """A value that the person wants to hear."""

    what: str
    kind: TellKind
    value: str
    pattern: str = ""
    """For texts: a regular expression of every value of the type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What must be so at the end, and nothing else."""

    changed: dict[str, dict[str, Any]]
    """`class:id` to the fields that differ from the start, with their values."""
    made: tuple[str, ...]
    """New records, each as the digest of what it holds."""
    events: tuple[str, ...]
    """What cannot be undone, sorted."""
    touched: tuple[str, ...]
    """Fields of the start's records that may be written at all, as `class:id.field`."""
    told: tuple[Tell, ...] = ()
    refused: tuple[str, ...] = ()
    """Rules by which a wish must be refused, sorted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an episode came to."""

    changed: dict[str, dict[str, Any]]
    made: tuple[str, ...]
    events: tuple[str, ...]
    touched: frozenset[str]
    refused: tuple[str, ...] = ()
    said: str | None = None
    """All that was said to the person; `None` if the talk never ended."""
    seen: frozenset[str] = frozenset()
    """Texts of all values in results."""
    seen_numbers: frozenset[str] = frozenset()
    heard: str = ""
    """All that the person said."""
    was_asked: bool = True
    num_unsaid: int | None = None
    """Wishes that the person never came to; `None` if they said all of them at once."""


def outcome(world: LiveWorld, refused: Collection[str] = (), **talk: Any) -> Outcome:
    """Read off what has become of a world."""
    spec, difference = world.machine.spec, world.store.difference()
    new = {i: (of, after) for (of, i), (before, after) in difference.items() if before is None}
    labels = _Labels(spec, new)
    changed: dict[str, dict[str, Any]] = {}
    for (of, identifier), (before, after) in difference.items():
        if before is not None:
            fields = {n: labels.show(of, n, v) for n, v in after.items() if before[n] != v}
            changed[f"{of}:{identifier}"] = fields
    touched = frozenset(f"{of}:{i}.{name}" for of, i, name in world.touched if i not in new)
    return Outcome(
        changed, tuple(sorted(labels.of(i) for i in new)),
        tuple(sorted(_event(event, labels) for event in world.events)),
        touched, tuple(sorted(refused)), **talk,
    )  # fmt: skip


def _event(event: Event, labels: _Labels) -> str:
    return f"{event.kind} {event.of} {labels.of(event.id)} {event.what}".rstrip()


class _Labels:
    """Names for new records that depend on what they hold only."""

    def __init__(self, spec: Spec, new: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        self._spec, self._new = spec, new
        self._known: dict[str, str] = {}

    def of(self, identifier: str) -> str:
        """Return the id itself for a record of the start, else a digest."""
        if identifier not in self._new:
            return identifier
        if identifier not in self._known:
            of, row = self._new[identifier]
            self._known[identifier] = f"new {of}"  # a circle of new records ends here
            held = {name: self.show(of, name, value) for name, value in sorted(row.items())}
            text = json.dumps(held, sort_keys=True)
            digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
            self._known[identifier] = f"new {of} {digest}"
        return self._known[identifier]

    def show(self, of: str, name: str, value: Any) -> Any:
        """Write a field, references by their label."""
        field = self._spec.classes[of].fields.get(name)
        type_ = field.type if field is not None else Type("text")
        if type_.kind == "ref" and value is not None:
            return self.of(value)
        return show(type_, value)


def goal_of(reached: Outcome, tells: tuple[Tell, ...] = ()) -> Goal:
    """Return the goal that this outcome, and no other, reaches."""
    return Goal(
        changed=reached.changed, made=reached.made, events=reached.events,
        touched=tuple(sorted(reached.touched)), told=tells, refused=reached.refused,
    )  # fmt: skip


CHANGED = "the records end as they should"
MADE = "the new records are the ones that were wanted"
EVENTS = "what cannot be undone is what was wanted"
BYSTANDERS = "nothing else was touched, not even for a while"
REFUSED = "what the rules forbid, and only that, is refused by the right rule"
CLOSED = "the agent says when it is done"
ASKED = "the agent asks for what it was not told"
HEARD = "the person has said all that they want"


def judge(goal: Goal, reached: Outcome, *, withholds: bool) -> dict[str, float]:
    """Return each part of the reward, 1 or 0."""
    parts = {
        CHANGED: reached.changed == goal.changed,
        MADE: Counter(reached.made) == Counter(goal.made),
        EVENTS: Counter(reached.events) == Counter(goal.events),
        BYSTANDERS: reached.touched <= set(goal.touched),
        REFUSED: reached.refused == tuple(sorted(goal.refused)),
        CLOSED: reached.said is not None,
    }
    for tell in goal.told:
        parts[f"tells {tell.what}: {tell.value}"] = _is_told(goal, tell, reached)
    if withholds:
        parts[ASKED] = reached.was_asked
    if reached.num_unsaid is not None:
        parts[HEARD] = reached.num_unsaid == 0
    return {name: float(met) for name, met in parts.items()}


def _is_told(goal: Goal, tell: Tell, reached: Outcome) -> bool:
    same = {t.value for t in goal.told if (t.kind, t.pattern) == (tell.kind, tell.pattern)}
    seen = reached.seen_numbers if tell.kind in ("money", "int") else reached.seen
    find = _finder(tell, reached.heard)
    # What the person said is no claim of the agent that repeats it, nor a doubt.
    said = without_own_words(reached.said or "", own_words(reached.heard))
    return told(said, same, find, seen, names=reached.seen)[tell.value]


def tells(goal: Goal, answer: str, heard: str, names: Iterable[Any] = ()) -> bool:
    """Whether a message tells all that is asked for, once tools have yielded it.

    Where a value stands in the question too, it may not: what is repeated is no answer. `names`
    are what tools yield besides: a title such as `The Inventor` casts no doubt.
    """
    values = frozenset(tell.value for tell in goal.told)
    forms = frozenset(form for value in values for form in number_forms(value))
    reached = Outcome({}, (), (), frozenset(), said=answer, seen=values.union(map(str, names)),
                      seen_numbers=forms, heard=heard)  # fmt: skip
    return all(_is_told(goal, tell, reached) for tell in goal.told)


def seen_in_time(
    goal: Goal, said: Sequence[str], heard: str, seen: Mapping[str, int]
) -> frozenset[str]:
    """Return the values seen, without those that were told only before they were seen.

    Args:
        goal: Says which values are to be told.
        said: The agent's messages.
        heard: All that the person said.
        seen: Each value in a result, with the number of messages said before it came.
    """
    late = {
        tell.value
        for tell in goal.told
        if (first := seen.get(tell.value, 0))
        and not says("\n".join(said[first:]), tell.value, _finder(tell, heard))
    }
    return frozenset(seen) - late


def _finder(tell: Tell, heard: str) -> Finder:
    if tell.kind == "date":
        year = tell.value[:4]
        return dates(exempt=_dates_in(heard, year) - {tell.value}, year=year)
    if tell.kind == "text":
        return by_pattern(tell.pattern)
    places = 2 if tell.kind == "money" else 0
    return numbers(places=places, exempt=_numbers_in(heard, places) - {tell.value})


@lru_cache(maxsize=128)  # an episode is judged by the same words several times
def _dates_in(heard: str, year: str) -> frozenset[str]:
    return frozenset(value for _, _, value in dates(year=year)(plain(heard)))


@lru_cache(maxsize=128)
def _numbers_in(heard: str, places: int) -> frozenset[str]:
    return frozenset(value for _, _, value in numbers(places=places)(plain(heard)))


def number_forms(value: Any) -> set[str]:
    """Return the canonical forms of a number in a result, with two places and with none."""
    try:
        return {canonical_number(str(value), 2), canonical_number(str(value), 0)}
    except ArithmeticError:
        return set()
