"""mean@k, pass@k, vote@k, heavy-mean@k and heavy-pass@k on recorded answers, with intervals.

A problem has n recorded attempts. What k of them would have given is averaged over all k-subsets:
pass@k in closed form, vote@k by going through them (or a seeded sample where they are too many).
Heavy answers are recorded for the width at which they were made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from longcat_heavythink._journal import read_journal, recorded_usage
from longcat_heavythink._normalise import normalise
from longcat_heavythink._replies import reply_from_json

_MOST_SUBSETS = 2000


@dataclass(slots=True)
class Problem:
    """One question with its recorded answers, as keys: equal keys are equal answers."""

    truth: str
    attempts: list[str] = field(default_factory=list[str])
    tokens: list[int] = field(default_factory=list[int])
    """Of each attempt."""
    heavy: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    """Final answers by the number of attempts that they were made of."""
    heavy_tokens: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """Of the whole runs."""

    @property
    def num_right(self) -> int:
        """Attempts that give the truth."""
        return self.attempts.count(self.truth)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems, with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Row:
    """All metrics at one k."""

    k: int
    mean: Estimate
    passed: Estimate
    vote: Estimate
    heavy_mean: Estimate | None
    heavy_pass: Estimate | None
    tokens: float
    """Of k attempts, on average."""
    heavy_tokens: float | None
    """Of a heavy run at k, on average."""


def mean_at(problem: Problem) -> float:
    """Return the share of attempts that are right; it does not depend on k."""
    return problem.num_right / len(problem.attempts)


def pass_at(num_attempts: int, num_right: int, k: int) -> float:
    """Return the chance that at least one of k attempts is right: 1 - C(n-c, k) / C(n, k).

    >>> pass_at(4, 1, 2)
    0.5
    """
    if not 1 <= k <= num_attempts:
        raise ValueError(f"k must be from 1 to {num_attempts}, got {k}")
    return 1 - math.comb(num_attempts - num_right, k) / math.comb(num_attempts, k)


def vote_at(attempts: Sequence[str], truth: str, k: int, *, seed: int = 0) -> float:
    """Return the chance that the vote of k attempts is right; ties are drawn by lot.

    >>> round(vote_at(["a", "a", "b"], "a", 3), 3)
    1.0
    """
    if not 1 <= k <= len(attempts):
        raise ValueError(f"k must be from 1 to {len(attempts)}, got {k}")
    if math.comb(len(attempts), k) <= _MOST_SUBSETS:
        subsets: Iterable[Sequence[str]] = combinations(attempts, k)
    else:
        random = Random(f"{seed}:{k}")
        subsets = (random.sample(attempts, k) for _ in range(_MOST_SUBSETS))
    return fmean(_plurality(subset, truth) for subset in subsets)


def _plurality(answers: Sequence[str], truth: str) -> float:
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    most = max(counts.values())
    leaders = [answer for answer, count in counts.items() if count == most]
    return (truth in leaders) / len(leaders)


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = 1000) -> Estimate:
    """Return the mean over problems with its 95% interval.

    Problems are drawn anew `resamples` times. Where all have the same value, a bootstrap would
    claim certainty; Wilson's interval takes its place.
    """
    if not values:
        raise ValueError("there must be at least one problem")
    mean, n = fmean(values), len(values)
    if max(values) - min(values) < 1e-12:
        return Estimate(mean, *_wilson(mean, n))
    random = Random(seed)
    means = sorted(fmean(random.choices(values, k=n)) for _ in range(resamples))
    return Estimate(mean, means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1])


def _wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def evaluate(problems: Sequence[Problem], ks: Sequence[int], *, seed: int = 0) -> list[Row]:
    """Return all metrics at each k.

    Raises:
        ValueError: A problem has fewer attempts than the largest k.
    """
    rows: list[Row] = []
    for k in ks:
        heavy_mean = _each(problems, lambda p, k=k: _heavy_mean(p, k), seed)
        heavy_pass = _each(problems, lambda p, k=k: float(p.truth in p.heavy[k]), seed, k)
        spent = [t for p in problems for t in p.heavy_tokens.get(k, ())]
        rows.append(
            Row(
                k,
                bootstrap([mean_at(p) for p in problems], seed=seed),
                bootstrap([pass_at(len(p.attempts), p.num_right, k) for p in problems], seed=seed),
                bootstrap([vote_at(p.attempts, p.truth, k, seed=seed) for p in problems],
                          seed=seed),
                heavy_mean,
                heavy_pass,
                fmean(k * fmean(p.tokens) if p.tokens else 0.0 for p in problems),
                fmean(spent) if spent else None,
            )
        )  # fmt: skip
    return rows


def _heavy_mean(problem: Problem, k: int) -> float | None:
    answers = problem.heavy.get(k)
    return answers.count(problem.truth) / len(answers) if answers else None


def _each(
    problems: Sequence[Problem], metric: Callable[[Problem], float | None], seed: int,
    k: int | None = None,
) -> Estimate | None:  # fmt: skip
    chosen = [p for p in problems if k is None or p.heavy.get(k)]
    values = [value for value in map(metric, chosen) if value is not None]
    return bootstrap(values, seed=seed) if values else None


def read_problems(path: str | Path, normaliser: Callable[[str], str] = normalise) -> list[Problem]:
    """Return the problems of a journal whose runs were marked with their true answers.

    Runs of the same question are one problem: their attempts are pooled, and each final answer
    counts for the width at which it was made.
    """
    truths: dict[str, str] = {}
    questions: dict[str, str] = {}
    calls: dict[str, list[dict[str, Any]]] = {}
    ends: dict[str, dict[str, Any]] = {}
    for entry in read_journal(path):
        run = str(entry.get("run", ""))
        if entry["kind"] == "run":
            questions[run] = json.dumps(entry["messages"], sort_keys=True)
        elif entry["kind"] == "truth":
            truths[run] = normaliser(str(entry["answer"]))
        elif entry["kind"] == "call":
            calls.setdefault(run, []).append(entry)
        elif entry["kind"] == "end" and "reply" in entry:
            ends[run] = entry
    problems: dict[str, Problem] = {}
    for run, truth in truths.items():
        problem = problems.setdefault(questions.get(run, run), Problem(truth))
        _add_run(problem, calls.get(run, []), ends.get(run), normaliser)
    return [problem for problem in problems.values() if problem.attempts]


def _add_run(
    problem: Problem, calls: Sequence[dict[str, Any]], end: dict[str, Any] | None,
    normaliser: Callable[[str], str],
) -> None:  # fmt: skip
    latest = {(entry["stage"], entry["index"]): entry for entry in calls}
    width = 0
    for (stage, _), entry in sorted(latest.items()):
        reply = reply_from_json(entry["reply"])
        if stage == 0:
            width += 1
        if stage == 0 and reply.good:
            problem.attempts.append(normaliser(reply.text))
            problem.tokens.append(recorded_usage(entry).total_tokens)
    if end is not None and any(stage for stage, _ in latest):
        answer = normaliser(reply_from_json(end["reply"]).text)
        total = sum(recorded_usage(entry).total_tokens for entry in latest.values())
        problem.heavy.setdefault(width, []).append(answer)
        problem.heavy_tokens.setdefault(width, []).append(total)
