"""Running sums give what a loop over every window gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink._confidence import (
    bottom_group_confidence,
    group_confidence,
    lowest_group_confidence,
    mean_confidence,
    tail_confidence,
    token_confidence,
)

VALUES = st.lists(st.floats(0, 20), max_size=40)


@given(VALUES, st.integers(1, 12))
def test_groups_equal_a_loop_over_every_window(values, window):
    if len(values) <= window:
        expected = [sum(values) / len(values)] if values else []
    else:
        expected = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
    assert group_confidence(values, window) == pytest.approx(expected, abs=1e-9)
    if expected:
        lowest = lowest_group_confidence(values, window)
        assert lowest == pytest.approx(min(expected), abs=1e-9)
        bottom = sorted(expected)[: max(1, len(expected) // 10)]
        assert bottom_group_confidence(values, window) == pytest.approx(
            sum(bottom) / len(bottom), abs=1e-9
        )


def test_a_token_is_as_sure_as_its_alternatives_are_unlikely():
    assert token_confidence([[-0.1, -3.9], [], [-2.0]]) == (2.0, 0.0, 2.0)
    assert mean_confidence([]) == lowest_group_confidence([], 3) == 0.0
    assert tail_confidence([9, 9, 1, 2], 2) == 1.5
    with pytest.raises(ValueError, match="window"):
        group_confidence([1.0], 0)
