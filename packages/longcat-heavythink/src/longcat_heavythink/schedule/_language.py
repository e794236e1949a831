"""Schedules by name, and their text.

```
heavy:8          think 8 times, then one summary            sample:8>summarise:1
heavy:8,2        the same with summaries fed back           sample:8>summarise:8>summarise:1
vote:16          self-consistency                           sample:16>vote:count
confidence:16    weighted by confidence (DeepConf)          sample:16>vote:lowest
best:16          best of N by a scorer                      sample:16>best
genselect:16,4   tournament in groups of 4                  sample:16>tournament:4
rsa:16,4,10      recursive self-aggregation, 10 loops       sample:16>summarise:16,subset=4>…>vote
pacore:32,4      rounds of references, then one             sample:32>summarise:4>summarise:1
plain            one answer                                 sample:1
```
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ._stages import Best, Sample, Schedule, Stage, Summarise, Tournament, Vote

_MOST_CALLS = 100_000


def plain() -> Schedule:
    """Return the schedule of one ordinary answer."""
    return Schedule((Sample(1),))


def heavy(width: int = 8, depth: int = 1) -> Schedule:
    """Return heavy thinking: `width` thinkers, then a summary (report, section 4).

    `depth` feeds summaries back: between rounds, `width` of them are drawn.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return Schedule((Sample(width), *[Summarise(width)] * (depth - 1), Summarise()))


def vote(width: int = 16) -> Schedule:
    """Return self-consistency: the answer that most give (arXiv 2203.11171)."""
    return Schedule((Sample(width), Vote()))


def confidence_vote(width: int = 16, weight: str = "lowest", keep: float = 1.0) -> Schedule:
    """Return a vote weighted by confidence (DeepConf, arXiv 2508.15260)."""
    return Schedule((Sample(width), Vote(weight, keep)))


def best_of(width: int = 16) -> Schedule:
    """Return best of N by the scorer that is given to the run."""
    return Schedule((Sample(width), Best()))


def genselect(width: int = 16, size: int = 4) -> Schedule:
    """Return a tournament in which the model itself picks (GenSelect, arXiv 2507.17797)."""
    return Schedule((Sample(width), Tournament(size)))


def rsa(population: int = 16, subset: int = 4, rounds: int = 10) -> Schedule:
    """Return recursive self-aggregation (arXiv 2509.26626): `rounds` populations, then a vote."""
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    loops = [Summarise(population, subset)] * (rounds - 1)
    return Schedule((Sample(population), *loops, Vote()))


def pacore(*widths: int) -> Schedule:
    """Return rounds of the given widths, then one answer (PaCoRe, arXiv 2601.05593)."""
    first, *more = widths or (16,)
    return Schedule((Sample(first), *map(Summarise, more), Summarise()))


_NAMED: dict[str, Callable[..., Schedule]] = {
    "plain": plain, "heavy": heavy, "vote": vote, "confidence": confidence_vote, "best": best_of,
    "genselect": genselect, "rsa": rsa, "pacore": pacore,
}  # fmt: skip
_STAGES: dict[str, type[Stage]] = {
    "sample": Sample, "summarise": Summarise, "summarize": Summarise, "vote": Vote, "best": Best,
    "tournament": Tournament,
}  # fmt: skip


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that a text describes: one by name, or stages joined with `>`.

    >>> parse_schedule("heavy:8") == parse_schedule("sample:8 > summarise")
    True

    Raises:
        ValueError: The text names no schedule; the message says what was expected.
    """
    pieces = [piece.strip() for piece in text.split(">")]
    name = pieces[0].partition(":")[0].strip().lower()
    if len(pieces) == 1 and name in _NAMED:
        schedule = _build(_NAMED[name], pieces[0])
    else:
        schedule = Schedule(tuple(_stage(piece) for piece in pieces))
    if schedule.num_calls > _MOST_CALLS:
        raise ValueError(f"{text!r} asks for {schedule.num_calls} calls, more than {_MOST_CALLS}")
    return schedule


def _stage(piece: str) -> Stage:
    name = piece.partition(":")[0].strip().lower()
    if name not in _STAGES:
        known = ", ".join([*_NAMED, *_STAGES])
        raise ValueError(f"schedule must be made of {known}, got {piece!r}")
    return _build(_STAGES[name], piece)


def _build(make: Callable[..., Any], piece: str) -> Any:
    _, colon, rest = piece.partition(":")
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if equals:
            named[key] = _value(value, piece)
        else:
            positional.append(_value(key, piece))
    if make in (heavy, vote, confidence_vote, best_of, genselect, rsa, pacore):
        numbers = [v for v in [*positional, *named.values()] if isinstance(v, int)]
        if any(number > _MOST_CALLS for number in numbers):
            raise ValueError(f"{piece!r} must hold numbers up to {_MOST_CALLS}")
    try:
        return make(*positional, **named)
    except TypeError as error:
        words = re.sub(r"^.*?\(\) ", "", str(error)).replace("__init__() ", "")
        raise ValueError(f"{piece!r} is not understood: {words}") from None
    except ValueError as error:
        raise ValueError(f"{piece!r}: {error}") from None


def _value(text: str, piece: str) -> int | float | str | None:
    if re.fullmatch(r"[+-]?\d{1,12}", text):
        return int(text)
    if text == "None":
        return None
    try:
        return float(text)
    except ValueError:
        if re.fullmatch(r"[a-z_]+", text):
            return text
        raise ValueError(f"{piece!r} holds {text!r}, which is no number and no word") from None
