"""What a difference between engine and trainer is taken for, by its size alone."""

import warnings

import pytest
import torch
from longcat_gspo._agreement import Agreement, MismatchWarning


def _seen(gaps_SN, *, is_shaped=False, is_low_precision=False):
    """An agreement that has seen sequences of these differences, and what it warned of."""
    agreement = Agreement(is_shaped=is_shaped, is_low_precision=is_low_precision)
    gaps = torch.tensor(gaps_SN)
    engine_T, own_T = torch.full((gaps.numel(),), -3.0), gaps.flatten() - 3
    sequence_T = torch.arange(len(gaps)).repeat_interleave(gaps.shape[1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            agreement.observe(own_T, engine_T, sequence_T, len(gaps))
    assert len(told) <= 1
    assert all(warning.category is MismatchWarning for warning in told)
    return agreement, str(told[0].message) if told else ""


UP_AND_DOWN = [[0.3, -0.3] * 32] * 2
"""As rounding is: each sequence's mean is 0."""
APART = [[0.3] * 64, [-0.3] * 64]
"""As large a token, and a sequence's mean is as large too: other weights."""


def test_rounding_cancels_within_a_sequence_and_other_weights_do_not():
    agreement, said = _seen(UP_AND_DOWN)
    assert agreement.takes_own
    assert "the trainer's own" in said
    agreement, said = _seen(APART)
    assert not agreement.takes_own
    assert "more than rounding explains" in said
    assert "the trainer's own" in _seen(APART, is_shaped=True)[1]
    assert "more than rounding" in _seen([[0.6, -0.6] * 32] * 2)[1]


def test_too_few_tokens_tell_nothing_and_equal_ones_that_all_is_well():
    agreement, said = _seen([[0.3] * 63])
    assert (agreement.is_open, agreement.takes_own, said) == (True, False, "")
    assert _seen([[0.3] * 63], is_low_precision=True)[0].takes_own
    agreement, said = _seen([[4e-4] * 64], is_low_precision=True)
    assert (agreement.is_open, agreement.takes_own, said) == (False, False, "")


def test_tokens_that_are_all_more_probable_to_the_engine_were_cut():
    with pytest.raises(ValueError, match="128 sampled tokens were nearly all more probable"):
        _seen([[-0.3] * 64] * 2)
    _seen([[-0.3] * 63 + [0.3]] * 2)  # some are not: it is another thing
