"""From attempts to figures: rates, estimators over k, cost, and the gap that noise opens.

A task was tried n times and passed c times. Tasks are what intervals are drawn over: attempts at
one task are not independent.

- avg@n: the mean of c / n.
- pass@k: the chance that one of k attempts passes, 1 - C(n - c, k) / C(n, k)
  (Chen et al. 2021, equation 1).
- pass^k: the chance that all of k attempts pass, C(c, k) / C(n, k) (tau-bench, section 3).
- tokens per success: tokens sampled in all attempts, failed ones too, over the number that passed.
- gap: clean minus noisy rate of the same task, averaged over the tasks that were tried both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from longcat_heavythink.evaluate import Estimate, bootstrap, pass_at

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a task."""

    task: str
    number: int
    """Which of the task's attempts, from 0."""
    level: float
    reward: float
    tokens: int | None
    """Sampled; `None` where a server does not count."""
    turns: int
    status: str
    """`done`, `turns` or `cut`: see `longcat_envs.Episode`."""

    @property
    def has_passed(self) -> bool:
        """Whether every rubric was met."""
        return self.reward == 1

    @property
    def was_begun(self) -> bool:
        """Whether the model was asked at all: its prompt left room for an answer."""
        return self.status != "cut" or self.turns > 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one domain at one level of noise."""

    model: str
    domain: str
    level: float
    attempts: tuple[Attempt, ...]
    num_invalid: int
    """Attempts in which the world failed: counted apart."""
    note: str = ""
    """What a reader of the figures must know: attempts without room for an answer."""

    @property
    def had_no_room(self) -> bool:
        """Whether the model was asked in none of its attempts: it has not failed in them."""
        return bool(self.attempts) and not any(attempt.was_begun for attempt in self.attempts)


def pass_all(num_attempts: int, num_passed: int, k: int) -> float:
    """Chance that k attempts, drawn without replacement, all pass: C(c, k) / C(n, k).

    >>> pass_all(4, 3, 2)
    0.5
    """
    if not 1 <= k <= num_attempts:
        raise ValueError(f"k must be from 1 to {num_attempts}, got {k}")
    return math.comb(num_passed, k) / math.comb(num_attempts, k)


def row(cell: Cell, ks: Iterable[int]) -> dict[str, Any]:
    """The figures of a cell, ready for JSON; what nothing was measured for is `None`."""
    tried = _by_task(cell).values()
    counts = [(len(found), sum(a.has_passed for a in found)) for found in tried]
    if cell.had_no_room:
        counts = []
    figures: dict[str, Any] = {
        "model": cell.model,
        "domain": cell.domain,
        "noise": cell.level,
        "tasks": len(tried),
        "attempts": len(cell.attempts),
        "passed": sum(attempt.has_passed for attempt in cell.attempts),
        "invalid": cell.num_invalid,
        "cut": sum(attempt.status == "cut" for attempt in cell.attempts),
        "out_of_turns": sum(attempt.status == "turns" for attempt in cell.attempts),
        "note": cell.note,
        "avg": _estimate([c / n for n, c in counts]),
    }
    for k in ks:
        enough = [(n, c) for n, c in counts if n >= k]  # an invalid attempt leaves a task fewer
        figures[f"pass@{k}"] = _estimate([pass_at(n, c, k) for n, c in enough])
        figures[f"pass^{k}"] = _estimate([pass_all(n, c, k) for n, c in enough])
    return {**figures, "tokens_per_success": tokens_per_success(cell)}


def tokens_per_success(cell: Cell) -> dict[str, float | None] | None:
    """Tokens of all attempts over those that passed, with an interval over tasks.

    `None` where nothing passed or tokens are not known. A drawing without a success is infinite:
    a bound that is, is `None`, for JSON has no number for it.
    """
    if cell.had_no_room or any(attempt.tokens is None for attempt in cell.attempts):
        return None
    tasks = [(sum(a.tokens or 0 for a in found), sum(a.has_passed for a in found))
             for found in _by_task(cell).values()]  # fmt: skip
    if not any(passed for _, passed in tasks):
        return None
    rng = Random(0)
    drawn = sorted(_ratio(rng.choices(tasks, k=len(tasks))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    bounds = {"low": low, "high": high}
    return {
        "value": _ratio(tasks),
        **{name: bound if math.isfinite(bound) else None for name, bound in bounds.items()},
    }


def _ratio(tasks: Sequence[tuple[int, int]]) -> float:
    passed = sum(passed for _, passed in tasks)
    return sum(tokens for tokens, _ in tasks) / passed if passed else math.inf


def gaps(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Clean minus noisy rate, task by task, for each model, domain and level above 0."""
    cells = [cell for cell in cells if not cell.had_no_room]
    clean = {(cell.model, cell.domain): cell for cell in cells if cell.level == 0}
    rows: list[dict[str, Any]] = []
    for cell in cells:
        before = clean.get((cell.model, cell.domain))
        if cell.level == 0 or before is None:
            continue
        without, within = _rates(before), _rates(cell)
        both = sorted(without.keys() & within.keys())
        rows.append(
            {
                "model": cell.model,
                "domain": cell.domain,
                "noise": cell.level,
                "tasks": len(both),
                "gap": _difference([without[task] - within[task] for task in both]),
            }
        )
    return rows


def over_domains(cells: Sequence[Cell], ks: Sequence[int]) -> list[dict[str, Any]]:
    """Each model's figures at each level, the tasks of its domains pooled, where it has several."""
    pools: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        if not cell.had_no_room:
            pools.setdefault((cell.model, cell.level), []).append(cell)
    return [
        row(_pooled(found), ks)
        for found in pools.values()
        if len({cell.domain for cell in found}) > 1
    ]


def _pooled(cells: Sequence[Cell]) -> Cell:
    attempts = tuple(a for cell in cells for a in cell.attempts)
    invalid = sum(cell.num_invalid for cell in cells)
    return Cell(cells[0].model, "all", cells[0].level, attempts, invalid)


def _by_task(cell: Cell) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for attempt in cell.attempts:
        found.setdefault(attempt.task, []).append(attempt)
    return found


def _rates(cell: Cell) -> dict[str, float]:
    return {task: sum(a.has_passed for a in found) / len(found)
            for task, found in _by_task(cell).items()}  # fmt: skip


def _estimate(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return _as_json(bootstrap(values, resamples=RESAMPLES))


def _difference(values: Sequence[float]) -> dict[str, float] | None:
    """As `_estimate`, for values in [-1, 1].

    Where all are the same, drawing them anew would claim certainty: what n tasks without a single
    exception leave open (Wilson's bound at 0 of n) takes its place.
    """
    if not values:
        return None
    if max(values) - min(values) > 1e-12:
        return _as_json(bootstrap(values, resamples=RESAMPLES))
    reach = bootstrap([0.0] * len(values)).high
    return _as_json(Estimate(values[0], max(-1.0, values[0] - reach), min(1.0, values[0] + reach)))


def _as_json(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
