"""Budgets against brute force and the heap; values against their formulas."""

import itertools
import math
import time
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from longcat_gspo import CapabilityValue, allocate_budget, coba_value, knapsack_value
from longcat_gspo._budget import _by_heap

RATES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(RATES, st.integers(0, 3), st.integers(0, 6), st.floats(0, 1))
def test_the_threshold_chooses_what_the_heap_chooses(rates, low, more, share):
    high = low + more
    total = len(rates) * low + round(share * len(rates) * more)
    value = coba_value(alpha=4, beta=7)
    quick = allocate_budget(rates, total=total, low=low, high=high, value=value)
    heap = _by_heap(rates, total, low, high, value)
    assert sum(quick) == total
    assert all(low <= budget <= high for budget in quick)

    def worth(budgets):
        return sum(map(value, budgets, rates))

    assert worth(quick) == pytest.approx(worth(heap), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("value", [coba_value(alpha=3, beta=5, tau=4), knapsack_value])
def test_nothing_is_worth_more_than_what_is_chosen(value):
    rng = Random(0)
    for _ in range(20):
        rates = [rng.uniform(0.2, 0.8) for _ in range(4)]
        got = allocate_budget(rates, total=12, low=2, high=5, value=value)
        best = max(
            sum(map(value, budgets, rates))
            for budgets in itertools.product(range(2, 6), repeat=4)
            if sum(budgets) == 12
        )
        assert sum(map(value, got, rates)) == pytest.approx(best, rel=1e-9)


def test_gains_are_differences_of_the_value():
    value = coba_value(alpha=4.5, beta=6.5)
    rates = [0.0, 0.01, 0.3, 0.5, 0.99, 1.0]
    gains = value.gains(torch.tensor(rates, dtype=torch.float64), 2, 20)
    for row, rate in zip(gains.tolist(), rates, strict=True):
        for budget, gain in enumerate(row, start=2):
            assert gain == pytest.approx(value(budget + 1, rate) - value(budget, rate), abs=1e-14)


def test_a_hundred_thousand_tasks_in_under_a_second():
    rng = Random(0)
    rates = [rng.random() for _ in range(100_000)]
    value, best = coba_value(alpha=4, beta=7), float("inf")
    for _ in range(3):
        began = time.process_time()  # others may be at work
        got = allocate_budget(rates, total=1_600_000, low=2, high=128, value=value)
        best = min(best, time.process_time() - began)
    assert sum(got) == 1_600_000
    assert best < 3  # under one where the core is not shared


def test_the_knapsack_value_is_its_formula():
    assert knapsack_value(0, 0.3) == 0
    assert knapsack_value(4, 0.3) == pytest.approx((1 - 0.3**4 - 0.7**4) * 0.3 * 0.49)
    assert knapsack_value(8, 0.0) == knapsack_value(8, 1.0) == 0


def test_the_peak_moves_from_what_is_easy_for_a_weak_policy_to_what_is_hard_for_a_strong_one():
    capability = CapabilityValue(memory=3)
    for rate in (0.05, 0.1, 0.1):
        capability.observe([rate] * 4)
    weak = capability.value()
    assert capability.failure == pytest.approx(0.916667, abs=1e-5)
    assert weak.alpha == pytest.approx(min(2.5 + 6 * capability.failure, 7.5))
    saved = capability.state_dict()
    for _ in range(3):
        capability.observe([0.9, 0.8])
    strong = capability.value()
    shaped = 1 / (1 + math.exp(-10 * (0.15 - 0.5)))
    assert strong.alpha == pytest.approx(2.5 + 6 * shaped)
    assert weak.beta + weak.alpha == strong.alpha + strong.beta == 11
    peak = [(v.alpha - 1) / 9 for v in (weak, strong)]
    assert peak[0] > 0.6
    assert peak[1] < 0.25
    assert "fails 0.15" in capability.explain(0.3, 8)
    other = CapabilityValue(memory=3)
    other.load_state_dict(saved)
    assert other.value() == weak


@pytest.mark.parametrize("wrong", [{"alpha": 1e308}, {"beta": 0}, {"tau": float("nan")}])
def test_a_value_that_has_no_digits_is_refused(wrong):
    with pytest.raises(ValueError, match="must be positive and at most 1e"):
        coba_value(**{"alpha": 4, "beta": 7, **wrong})


@pytest.mark.parametrize("wrong", [{"lam": float("nan")}, {"kappa": 1e308}, {"tau": 0}])
def test_a_capability_that_has_no_value_is_refused_before_anything_is_seen(wrong):
    with pytest.raises(ValueError, match=r"need 0 < alpha_min|must be positive"):
        CapabilityValue(**wrong)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"value": lambda budget, rate: math.nan}, "value must be finite for each budget"),
        ({"value": lambda budget, rate: math.inf * budget}, "value must be finite"),
        ({"total": 5.5}, "total must be a whole number, got 5.5"),
        ({"total": "4"}, "total must be a whole number"),
        ({"high": 4.0}, "high must be a whole number"),
        ({"low": None}, "low must be a whole number"),
    ],
)
def test_a_budget_of_no_numbers_is_refused(changed, words):
    given = {"total": 4, "low": 0, "high": 4, "value": coba_value(alpha=2.0, beta=3.0), **changed}
    with pytest.raises(ValueError, match=words):
        allocate_budget([0.2, 0.5], **given)
    assert sum(allocate_budget([0.2, 0.5], total=np.int64(4), low=0, high=4,
                               value=coba_value(alpha=2.0, beta=3.0))) == 4  # fmt: skip
