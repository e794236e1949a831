"""What must not matter, and what must matter as the formula says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from longcat_gspo import (
    ClipRange,
    dapo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
)

CLIP = ClipRange(low=0.02, high=0.03)


def _per_token(log_probs, old, advantages, sequence, *, clip):
    return gspo_token_loss(
        log_probs, old, advantages[sequence], sequence, num_sequences=len(advantages), clip=clip
    )


LOSSES = {"gspo": gspo_loss, "gspo-token": _per_token, "grpo": grpo_loss, "dapo": dapo_loss}

BATCHES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.floats(-3, 0), st.floats(-0.1, 0.1)), min_size=1, max_size=6),
        st.floats(-2, 2),
    ),
    min_size=1,
    max_size=5,
)


def _packed(rows):
    """Packed tensors of [(tokens of (old log-prob, change), advantage), ...]."""
    old = torch.tensor([o for tokens, _ in rows for o, _ in tokens], dtype=torch.float64)
    change = torch.tensor([c for tokens, _ in rows for _, c in tokens], dtype=torch.float64)
    sequence = torch.tensor([place for place, (tokens, _) in enumerate(rows) for _ in tokens])
    advantages = torch.tensor([a for _, a in rows], dtype=torch.float64)
    return (old + change).requires_grad_(), old, advantages, sequence


def _value_and_gradient(loss, rows):
    new, old, advantages, sequence = _packed(rows)
    value, _ = loss(new, old, advantages, sequence, clip=CLIP)
    (gradient,) = torch.autograd.grad(value, new)
    return value.item(), [part.tolist() for part in gradient.split([len(t) for t, _ in rows])]


@pytest.mark.parametrize("name", LOSSES)
@given(rows=BATCHES, data=st.data())
def test_the_order_of_sequences_does_not_matter(name, rows, data):
    order = data.draw(st.permutations(range(len(rows))))
    value, gradient = _value_and_gradient(LOSSES[name], rows)
    moved, moved_gradient = _value_and_gradient(LOSSES[name], [rows[i] for i in order])
    assert moved == pytest.approx(value, abs=1e-12)
    for place, i in enumerate(order):
        assert moved_gradient[place] == pytest.approx(gradient[i], abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@given(rows=BATCHES)
def test_a_batch_twice_over_is_the_same_mean(name, rows):
    value, gradient = _value_and_gradient(LOSSES[name], rows)
    twice, twice_gradient = _value_and_gradient(LOSSES[name], [*rows, *rows])
    assert twice == pytest.approx(value, abs=1e-12)
    for place, part in enumerate(gradient):
        assert twice_gradient[place] == pytest.approx([g / 2 for g in part], abs=1e-12)


@given(rows=BATCHES)
def test_a_sequence_said_twice_as_long_weighs_the_same_in_gspo_and_twice_in_dapo(rows):
    """The length-scaling fault would make a longer sequence of equal ratios weigh more."""
    longer = [(rows[0][0] * 2, rows[0][1]), *rows[1:]]
    for name in ("gspo", "gspo-token", "grpo"):
        value, gradient = _value_and_gradient(LOSSES[name], rows)
        other, other_gradient = _value_and_gradient(LOSSES[name], longer)
        assert other == pytest.approx(value, abs=1e-12)
        assert sum(other_gradient[0]) == pytest.approx(sum(gradient[0]), abs=1e-12)
        for mine, theirs in zip(gradient[1:], other_gradient[1:], strict=True):
            assert theirs == pytest.approx(mine, abs=1e-12)
    num = sum(len(tokens) for tokens, _ in rows)
    _, gradient = _value_and_gradient(dapo_loss, rows)
    _, other_gradient = _value_and_gradient(dapo_loss, longer)
    share = num / (num + len(rows[0][0]))
    assert sum(other_gradient[0]) == pytest.approx(2 * share * sum(gradient[0]), abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=12),
    st.data(),
    st.sampled_from(["mean_std", "mean", "leave_one_out", "none"]),
)
def test_advantages_do_not_depend_on_the_order_and_groups_on_nobody_else(members, data, baseline):
    rewards, groups = [r for r, _ in members], [g for _, g in members]
    got = group_advantages(rewards, groups, baseline=baseline)
    order = data.draw(st.permutations(range(len(members))))
    moved = group_advantages(
        [rewards[i] for i in order], [groups[i] for i in order], baseline=baseline
    )
    assert moved == pytest.approx([got[i] for i in order], abs=1e-9)
    alone = [i for i, group in enumerate(groups) if group == groups[0]]
    own = group_advantages([rewards[i] for i in alone], ["x"] * len(alone), baseline=baseline)
    assert own == pytest.approx([got[i] for i in alone], abs=1e-9)


@given(rows=BATCHES, scale=st.floats(0.1, 10))
def test_the_loss_is_linear_in_advantages(rows, scale):
    value, _ = _value_and_gradient(gspo_loss, rows)
    scaled, _ = _value_and_gradient(gspo_loss, [(tokens, a * scale) for tokens, a in rows])
    assert scaled == pytest.approx(scale * value, rel=1e-9, abs=1e-12)
    assert math.isfinite(value)
