"""Objectives against loops, closed forms and finite differences, in float64."""

import itertools
import math

import pytest
import torch
from longcat_gspo import (
    ClipRange,
    TripletClip,
    allocate_budget,
    coba_value,
    dapo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    hispo_mask,
    mismatch_weights,
    triplet_clip_loss,
)

WIDE = ClipRange(low=0.2, high=0.3)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    sequence = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 1, 3])
    old = -torch.rand(10, generator=g, dtype=torch.float64)
    new = (old + 0.3 * torch.randn(10, generator=g, dtype=torch.float64)).requires_grad_()
    advantage = torch.tensor([1.0, -0.5, 0.7, -2.0], dtype=torch.float64)
    return new, old, advantage, sequence


def _loop(new, old, advantage, sequence, clip):
    total = 0.0
    for s, a in enumerate(advantage.tolist()):
        gaps = [
            (n - o)
            for n, o, i in zip(new.tolist(), old.tolist(), sequence.tolist(), strict=False)
            if i == s
        ]
        ratio = math.prod(math.exp(gap) for gap in gaps) ** (1 / len(gaps))
        total += min(ratio * a, min(max(ratio, 1 - clip.low), 1 + clip.high) * a)
    return -total / len(advantage)


def test_gspo_equals_a_loop_over_sequences(batch):
    loss, stats = gspo_loss(*batch, clip=WIDE)
    assert loss.item() == pytest.approx(_loop(*batch, WIDE), abs=1e-12)
    assert stats.is_clipped_S.any()
    assert not stats.is_clipped_S.all()


def test_gspo_gradient_equals_finite_differences(batch):
    new, old, advantage, sequence = batch
    loss, _ = gspo_loss(*batch, clip=WIDE)
    (grad,) = torch.autograd.grad(loss, new)
    for i in range(10):
        step = torch.zeros_like(new)
        step[i] = 1e-6
        up = _loop((new + step).detach(), old, advantage, sequence, WIDE)
        down = _loop((new - step).detach(), old, advantage, sequence, WIDE)
        assert grad[i].item() == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_on_policy_the_gradient_is_the_length_normalised_policy_gradient(batch):
    new, _, advantage, sequence = batch
    loss, _ = gspo_loss(new, new.detach(), advantage, sequence, clip=WIDE)
    (grad,) = torch.autograd.grad(loss, new)
    lengths = torch.bincount(sequence)
    torch.testing.assert_close(grad, -(advantage / lengths)[sequence] / len(advantage))


def test_gspo_token_has_the_gradient_of_gspo(batch):
    new, old, advantage, sequence = batch
    expected = torch.autograd.grad(gspo_loss(*batch, clip=WIDE)[0], new)[0]
    loss, _ = gspo_token_loss(new, old, advantage[sequence], sequence, num_sequences=4, clip=WIDE)
    torch.testing.assert_close(torch.autograd.grad(loss, new)[0], expected)


def test_grpo_equals_gspo_on_sequences_of_one_token():
    new = torch.tensor([-0.1, -2.0], dtype=torch.float64)
    old = torch.tensor([-0.3, -1.5], dtype=torch.float64)
    args = (new, old, torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([0, 1]))
    assert grpo_loss(*args, clip=WIDE)[0].item() == gspo_loss(*args, clip=WIDE)[0].item()


def test_dapo_is_the_mean_over_tokens(batch):
    new, old, advantage, sequence = batch
    total = 0.0
    for n, o, i in zip(new.tolist(), old.tolist(), sequence.tolist(), strict=True):
        a, ratio = advantage[i].item(), math.exp(n - o)
        total += min(ratio * a, min(max(ratio, 1 - WIDE.low), 1 + WIDE.high) * a)
    assert dapo_loss(*batch, clip=WIDE)[0].item() == pytest.approx(-total / 10, abs=1e-12)


def test_triplet_clip_equals_a_loop_and_cuts_what_it_should(batch):
    new, old, advantage, sequence = batch
    new = (
        old + torch.tensor([0.5, -0.5, 0.1, 1.0, 0.1, 0.6, -0.6, 0.2, -0.4, 2.0])
    ).requires_grad_()
    clip, engine = TripletClip(negative_low=0.2, positive_high=0.3, negative_high=2.0), old - 0.9
    engine[3:] = old[3:] + 0.1
    weight = mismatch_weights(old, engine, sequence, num_sequences=4, cap=2.0)
    assert weight[0] == 2.0
    loss, _ = triplet_clip_loss(
        new, old, advantage, sequence, clip=clip, max_tokens=50, weight_T=weight
    )
    total = 0.0
    for n, o, e, i in zip(
        new.tolist(), old.tolist(), engine.tolist(), sequence.tolist(), strict=True
    ):
        a, ratio = advantage[i].item(), math.exp(n - o)
        value = min(ratio * a, min(max(ratio, 0.8), 1.3) * a)
        if a < 0:
            value = max(value, 2.0 * a)
        total += min(math.exp(o - e), 2.0) * value
    assert loss.item() == pytest.approx(-total / (4 * 50), abs=1e-12)
    (grad,) = torch.autograd.grad(loss, new)
    cut = (grad == 0).tolist()
    # Good and already far up (0, 5); bad and already far down (8); bad and far up (3, 9).
    assert cut == [True, False, False, True, False, True, False, False, True, True]


def test_mismatch_is_bounded_by_token_and_by_sequence(batch):
    _, old, _, sequence = batch
    engine = old.clone()
    engine[0] -= math.log(4)  # one token four times as likely for the trainer
    engine[9] += math.log(4)
    by_token = mismatch_weights(old, engine, sequence, num_sequences=4, mode="mask", cap=3)
    assert by_token.tolist() == pytest.approx([0] + [1] * 8 + [0])
    by_sequence = mismatch_weights(old, engine, sequence, num_sequences=4, level="sequence", cap=9)
    assert by_sequence.tolist() == pytest.approx([4 ** (1 / 3)] * 3 + [1] * 6 + [0.25])
    kept = hispo_mask(old, engine, sequence, num_sequences=4, max_sequence_gap=0.6, max_token_gap=9)
    assert kept.tolist() == [True] * 9 + [False]
    kept = hispo_mask(old, engine, sequence, num_sequences=4, max_sequence_gap=9, max_token_gap=2)
    assert kept.tolist() == [False] + [True] * 9
    with pytest.raises(ValueError, match="cap must be at least 1"):
        mismatch_weights(old, engine, sequence, num_sequences=4, cap=0.5)
    # At the bound itself: a mask keeps it, HisPO's inequalities are strict.
    equal = mismatch_weights(old, old, sequence, num_sequences=4, mode="mask", cap=1)
    assert equal.tolist() == [1] * 10
    for gaps in ((0, 9), (9, 0)):
        names = ("max_sequence_gap", "max_token_gap")
        limits = dict(zip(names, gaps, strict=True))
        assert not hispo_mask(old, old, sequence, num_sequences=4, **limits).any()


def test_the_order_of_tokens_and_sequences_does_not_matter(batch):
    new, old, advantage, sequence = batch
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    names = torch.tensor([2, 0, 3, 1])
    shuffled = gspo_loss(
        new[order], old[order], advantage[names.argsort()], names[sequence[order]], clip=WIDE
    )[0]
    torch.testing.assert_close(shuffled, gspo_loss(*batch, clip=WIDE)[0])


def test_bad_shapes_and_empty_batches_are_refused():
    one, none = torch.zeros(1), torch.zeros(0)
    with pytest.raises(ValueError, match="one shape"):
        gspo_loss(one, none, one, one.long(), clip=WIDE)
    with pytest.raises(ValueError, match="at least one sampled token"):
        gspo_loss(none, none, one, none.long(), clip=WIDE)


def test_advantages_of_uneven_groups_against_hand_figures():
    rewards, groups = [1, 0, 0, 1, 5, 1, 1], ["a", "a", "a", "b", "c", "b", "b"]
    got = group_advantages(rewards, groups)
    root2 = math.sqrt(2)
    assert got == pytest.approx([root2, -root2 / 2, -root2 / 2, 0, 0, 0, 0])
    assert group_advantages(rewards, groups, baseline="mean")[:3] == pytest.approx(
        [2 / 3, -1 / 3, -1 / 3]
    )
    loo = group_advantages(rewards, groups, baseline="leave_one_out")
    assert loo[:3] == pytest.approx([1, -0.5, -0.5])
    assert group_advantages(rewards, groups, baseline="none") == rewards


def test_greedy_budget_equals_brute_force():
    value = coba_value(alpha=3.0, beta=2.0, tau=3.0)
    rates = [0.1, 0.5, 0.8, 1.0]
    got = allocate_budget(rates, total=14, low=1, high=6, value=value)
    best = max(
        (b for b in itertools.product(range(1, 7), repeat=4) if sum(b) == 14),
        key=lambda b: sum(value(n, p) for n, p in zip(b, rates, strict=False)),
    )
    score = [sum(value(n, p) for n, p in zip(b, rates, strict=False)) for b in (got, best)]
    assert score[0] == pytest.approx(score[1])
    assert sum(got) == 14
    with pytest.raises(ValueError, match="must be within"):
        allocate_budget(rates, total=30, low=1, high=6, value=value)
