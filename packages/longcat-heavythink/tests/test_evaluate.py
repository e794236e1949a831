"""Metrics against second derivations, and a solver of known accuracy."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink import HeavyConfig, Journal, read_journal, think
from longcat_heavythink.evaluate import (
    Problem,
    SimulatedSolver,
    bootstrap,
    evaluate,
    pass_at,
    read_problems,
    vote_at,
)
from longcat_heavythink.testing import scripted

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(right, k):
    k = min(k, len(right))
    subsets = list(combinations(right, k))
    assert pass_at(len(right), sum(right), k) == pytest.approx(
        sum(any(s) for s in subsets) / len(subsets)
    )


@pytest.mark.parametrize(("n", "right", "k"), [(9, 5, 3), (9, 3, 5), (8, 4, 4), (7, 2, 1)])
def test_vote_at_k_of_two_answers_is_hypergeometric(n, right, k):
    def chance(r):
        return math.comb(right, r) * math.comb(n - right, k - r) / math.comb(n, k)

    expected = sum(
        chance(r) * (1.0 if 2 * r > k else 0.5 if 2 * r == k else 0) for r in range(k + 1)
    )
    answers = ["yes"] * right + ["no"] * (n - right)
    assert vote_at(answers, "yes", k) == pytest.approx(expected)


def test_many_subsets_are_sampled():
    answers = ["yes"] * 20 + ["no"] * 20
    assert vote_at(answers, "yes", 11) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="k must be"):
        vote_at(answers, "yes", 41)
    with pytest.raises(ValueError, match="k must be"):
        pass_at(3, 1, 4)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    from random import Random

    random = Random(0)
    hits = 0
    for seed in range(200):
        values = [float(random.random() < 0.3) for _ in range(60)]
        estimate = bootstrap(values, seed=seed, resamples=300)
        hits += estimate.low <= 0.3 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99


def test_all_right_is_not_certainty():
    estimate = bootstrap([1.0] * 10)
    assert estimate.value == estimate.high == 1.0
    assert estimate.low == pytest.approx(10 / (10 + 1.96**2), abs=1e-6)  # Wilson's bound


@pytest.mark.parametrize("accuracy", [0.35, 0.65])
def test_votes_of_an_uncorrelated_solver_follow_the_binomial(accuracy):
    solver = SimulatedSolver(accuracy=accuracy, correlation=0, trap=1)
    k, n = 5, 3000
    won = 0
    for problem in range(n):
        answers = [solver.attempt(problem, number) for number in range(k)]
        won += answers.count(solver.truth(problem)) > k / 2
    expected = sum(
        math.comb(k, r) * accuracy**r * (1 - accuracy) ** (k - r) for r in range(3, k + 1)
    )
    assert won / n == pytest.approx(expected, abs=4 * math.sqrt(0.25 / n))
    assert (expected > accuracy) == (accuracy > 0.5)  # below one half voting loses


def test_the_correlation_of_two_attempts_is_what_was_asked_for():
    solver = SimulatedSolver(accuracy=0.4, correlation=0.5, seed=3)
    chances = [solver.chance(problem) for problem in range(4000)]
    mean = sum(chances) / len(chances)
    spread = sum((c - mean) ** 2 for c in chances) / len(chances)
    assert mean == pytest.approx(0.4, abs=0.02)
    assert spread / (mean * (1 - mean)) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "fields", [{"accuracy": 0}, {"accuracy": 0.5, "correlation": 1}, {"accuracy": 0.5, "trap": 2}]
)
def test_a_solver_is_checked(fields):
    with pytest.raises(ValueError, match="must be"):
        SimulatedSolver(**fields)


async def test_heavy_thinking_beats_voting_where_summaries_have_insight():
    solver = SimulatedSolver(accuracy=0.35, correlation=0.1, insight=0.9)
    heavy, vote = 0, 0
    for number in range(60):
        ask = [{"role": "user", "content": f"problem {number}"}]
        got = await think(ask, solver, config=HeavyConfig(width=8))
        heavy += got.answer == f"answer: {solver.truth(number)}"
        got = await think(ask, solver, config=HeavyConfig(schedule="vote:8"))
        vote += got.answer == f"answer: {solver.truth(number)}"
    assert heavy > vote + 10


async def test_recorded_runs_become_metrics(tmp_path):
    with Journal(tmp_path / "j") as journal:
        for seed, script in [(0, ["1/2", "7", "0.5", "0.5"]), (1, ["7", "7", "7", "7"])]:
            config = HeavyConfig(width=3, seed=seed)
            await think(ASK, scripted(script), config=config, journal=journal)
        runs = [e["run"] for e in read_journal(tmp_path / "j") if e["kind"] == "run"]
        for run in runs:
            journal.mark(run, "0.50")
    (problem,) = read_problems(tmp_path / "j")
    assert problem.num_right == 2
    assert len(problem.attempts) == 6
    assert problem.heavy == {3: ["=1/2", "=7"]}
    (row,) = evaluate([problem], [3])
    assert row.mean.value == pytest.approx(1 / 3)
    assert row.passed.value == pytest.approx(0.8)
    assert row.heavy_mean.value == 0.5
    assert row.heavy_pass.value == 1.0
    assert row.tokens > 0
    assert row.heavy_tokens > row.tokens


async def test_a_recorded_vote_is_no_heavy_run_and_one_cut_off_has_no_answer(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        await think(ASK, scripted(["7", "7"]), config=HeavyConfig(schedule="vote:2"),
                    journal=journal)  # fmt: skip
        await think(ASK, scripted(["7"] * 3), config=HeavyConfig(width=2), journal=journal)
        for run in [e["run"] for e in read_journal(path) if e["kind"] == "run"]:
            journal.mark(run, "7")
    lines = path.read_text().splitlines(keepends=True)
    last = max(place for place, line in enumerate(lines) if '"kind": "end"' in line)
    path.write_text("".join(lines[:last] + lines[last + 1 :]))
    (problem,) = read_problems(path)
    assert (len(problem.attempts), problem.heavy) == (4, {})


def test_a_row_without_heavy_runs_says_so():
    (row,) = evaluate([Problem("a", ["a", "b"], [1, 3])], [2])
    assert row.heavy_mean is None
    assert row.heavy_pass is None
    assert row.tokens == 4
