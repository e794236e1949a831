"""Which key is drawn: against the weights' own formula, and by counting."""

from collections import Counter

import pytest
from longcat_gspo import PassRateCurriculum


def test_draws_follow_share_and_frontier():
    curriculum = PassRateCurriculum({"common": 90.0, "rare": 10.0}, seed=0, floor=0.02)
    for _ in range(3):
        curriculum.record("rare", 0.0)  # 0.5, then the mean of 0.5 and three zeros: 0.125
    assert (curriculum.pass_rate("rare"), curriculum.pass_rate("common")) == (0.125, 0.5)
    weights = {"common": 90 * (0.25 + 0.02), "rare": 10 * (0.125 * 0.875 + 0.02)}
    assert {key: curriculum.weight(key) for key in weights} == pytest.approx(weights)
    counts = Counter(curriculum.draw() for _ in range(5000))
    expected = weights["rare"] / sum(weights.values())
    assert counts["rare"] / 5000 == pytest.approx(expected, abs=0.015)


def test_old_rates_are_forgotten():
    curriculum = PassRateCurriculum(["a"], seed=0, memory=0.5)
    for rate in (0.0, 0.0, 0.0, 1.0):
        curriculum.record("a", rate)
    assert curriculum.weight("a") == pytest.approx(0.53125 * 0.46875 + 0.02)


@pytest.mark.parametrize("keys", [[], {}, {"a": 0.0}])
def test_a_key_must_stand_for_something(keys):
    with pytest.raises(ValueError, match="positive share"):
        PassRateCurriculum(keys, seed=0)
