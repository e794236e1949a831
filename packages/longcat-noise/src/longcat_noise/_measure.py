"""Measure robustness over attempts, which are plain JSON, one a line.

    {"task": "t1", "level": 0.3, "passed": true, "turns": 7, "tokens": 812,
     "calls": [{"tool": "book", "arguments": {...}, "kind": "failure", "is_error": true}, ...]}

`level` 0 is clean; `kind` is what noise did to a call (`NoisyResult.kind`), empty for nothing.
An attempt with `"invalid": true` is counted and left out: the world failed, not the agent.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from ._contract import Book
from ._draw import canonical
from .tools import TOOLS

RESAMPLES = 2000
FALSE_KINDS = ("inconsistent", "misleading", "stale")
"""Kinds that show something untrue or out of date, which an agent should look at twice."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one task."""

    task: str
    level: float
    passed: float
    turns: int = 0
    tokens: int = 0
    calls: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def kinds(self) -> tuple[str, ...]:
        """What befell its calls."""
        return tuple(str(call["kind"]) for call in self.calls if call.get("kind"))


def read_attempts(lines: Iterable[str]) -> tuple[list[Attempt], int]:
    """Read attempts; return them and the number of invalid ones.

    Raises:
        ValueError: A line is no attempt; the message names it.
    """
    attempts: list[Attempt] = []
    num_invalid = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw: Any = json.loads(line)
            if not isinstance(raw, Mapping):
                raise ValueError(f"an attempt must be an object, got {line[:40]!r}")
            fields = cast("Mapping[str, Any]", raw)
            if fields.get("invalid"):
                num_invalid += 1
            else:
                attempts.append(_attempt(fields))
        except (ValueError, TypeError, KeyError) as error:
            words = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"line {number}: {words}") from None
    return attempts, num_invalid


def _attempt(raw: Mapping[str, Any]) -> Attempt:
    passed: Any = raw["passed"] if "passed" in raw else raw["reward"]
    level = raw["level"]
    for name, value in (("passed", passed), ("level", level)):
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return Attempt(str(raw["task"]), float(level), float(passed), int(raw.get("turns", 0)),
                   int(raw.get("tokens", 0)), tuple(raw.get("calls") or ()))  # fmt: skip


def measure(attempts: Sequence[Attempt], book: Book | None = None) -> list[dict[str, Any]]:
    """Return one row of measures for each level above 0.

    - `gap`: clean minus noisy pass rate, each task's attempts averaged first, over tasks tried both
      ways; `gap_low` and `gap_high` are the 2.5% and 97.5% points when tasks are drawn anew.
    - `recovery`: of the attempts that noise struck, at tasks passed at least once when clean, the
      share that passed; after ToolMaze's perturbation recovery rate.
    - `extra_turns`, `extra_tokens`: what a passed noisy attempt costs beyond the mean passed clean
      one of its task.
    - `duplicate_writes`: writes that really happened again with the same arguments, an attempt.
    - `over_trust`: of the answers that were untrue or old, the share that was not looked at twice,
      by the same call or by the second source.

    A share of nothing is `None`.
    """
    known = book or Book()
    clean = [one for one in attempts if one.level == 0]
    rows: list[dict[str, Any]] = []
    for level in sorted({one.level for one in attempts if one.level > 0}):
        noisy = [one for one in attempts if one.level == level]
        rows.append(_row(level, clean, noisy, known))
    return rows


def _row(
    level: float, clean: Sequence[Attempt], noisy: Sequence[Attempt], book: Book
) -> dict[str, Any]:
    before, after = _by_task(clean), _by_task(noisy)
    both = sorted(before.keys() & after.keys())
    gaps = [_mean(_passed(before[t])) - _mean(_passed(after[t])) for t in both]
    low, high = interval(gaps)
    able = {task for task, found in before.items() if any(one.passed == 1 for one in found)}
    struck = [one for one in noisy if one.kinds and one.task in able]
    doubted = [look for one in noisy for look in _looks(one, book)]
    return {
        "level": level,
        "tasks": len(both),
        "attempts": len(noisy),
        "clean": _mean([_mean(_passed(before[t])) for t in both]),
        "noisy": _mean([_mean(_passed(after[t])) for t in both]),
        "gap": _mean(gaps),
        "gap_low": low,
        "gap_high": high,
        "recovery": _mean(_passed(struck)),
        "extra_turns": _extra(before, noisy, "turns"),
        "extra_tokens": _extra(before, noisy, "tokens"),
        "duplicate_writes": _mean([float(duplicate_writes(one, book)) for one in noisy]),
        "over_trust": _mean([float(not look) for look in doubted]),
        "by_kind": _by_kind(struck),
    }


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95% interval of a mean, by drawing the values anew."""
    if not values:
        return None, None
    rng = Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return means[int(RESAMPLES * 0.025)], means[int(RESAMPLES * 0.975) - 1]


def duplicate_writes(attempt: Attempt, book: Book) -> int:
    """Return how many writes of an attempt really happened again."""
    counts: Counter[tuple[str, str]] = Counter()
    for call in attempt.calls:
        contract = book[str(call["tool"])]
        if contract.role != "writer" or contract.is_idempotent or contract.key:
            continue
        kind = TOOLS.get(str(call.get("kind") or ""))
        has_happened = not call.get("is_error") or (kind is not None and not kind.is_before)
        counts[(contract.name, canonical(call.get("arguments")))] += has_happened
    return sum(num - 1 for num in counts.values() if num > 1)


def _looks(attempt: Attempt, book: Book) -> list[bool]:
    """Say of each untrue or old answer whether it was looked at twice."""
    settled = book.settled()
    found: list[bool] = []
    for index, call in enumerate(attempt.calls):
        if call.get("kind") in FALSE_KINDS:
            tool, name = call["tool"], canonical(call.get("arguments"))
            found.append(
                any(
                    later["tool"] == settled.get(str(tool))
                    or (later["tool"] == tool and canonical(later.get("arguments")) == name)
                    for later in attempt.calls[index + 1 :]
                )
            )
    return found


def _by_kind(struck: Sequence[Attempt]) -> dict[str, dict[str, Any]]:
    found: dict[str, list[float]] = defaultdict(list)
    for one in struck:
        for kind in set(one.kinds):
            found[kind].append(one.passed)
    return {kind: {"attempts": len(found[kind]), "recovery": _mean(found[kind])}
            for kind in sorted(found)}  # fmt: skip


def _extra(before: Mapping[str, list[Attempt]], noisy: Sequence[Attempt], name: str) -> Any:
    """Return the mean cost of a passed noisy attempt beyond its task's passed clean ones."""
    extra: list[float] = []
    for one in noisy:
        plain = [float(getattr(c, name)) for c in before.get(one.task, ()) if c.passed == 1]
        if one.passed == 1 and plain:
            extra.append(getattr(one, name) - sum(plain) / len(plain))
    return _mean(extra)


def _by_task(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = defaultdict(list)
    for one in attempts:
        found[one.task].append(one)
    return dict(found)


def _passed(attempts: Sequence[Attempt]) -> list[float]:
    return [one.passed for one in attempts]


def _mean(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
