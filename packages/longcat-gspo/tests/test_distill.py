"""Distillation from several teachers, against loops in float64 and the divergence itself."""

import math

import pytest
import torch
from longcat_gspo import mopd_loss, reverse_kl_loss

SEQUENCE = torch.tensor([0, 0, 0, 1, 2, 2])


def _batch(seed=0, count=6):
    rng = torch.Generator().manual_seed(seed)
    logs = [-torch.rand(count, generator=rng, dtype=torch.float64) * 2 for _ in range(3)]
    return logs[0].requires_grad_(), logs[1], logs[0].detach() + 0.3 * (logs[2] + 1)


def _by_loop(new, teacher, sampled, low, high, advantages=(0.0,) * 3, alpha=0.0):
    """The loss and its gradient in the log-probabilities, token by token in floats."""
    loss, slopes = 0.0, []
    counts = [int((s == SEQUENCE).sum()) for s in range(3)]
    for t, s in enumerate(SEQUENCE.tolist()):
        ratio = math.exp(float(new[t]) - float(sampled[t]))
        weight = ratio if low <= ratio <= high else 0.0
        advantage = float(teacher[t]) - float(new[t]) + alpha * advantages[s]
        slopes.append(-weight * advantage / counts[s] / 3)
        loss += slopes[-1] * float(new[t])
    return loss, slopes


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (0.8, 1.1), (1.0, 1.0)])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_loss_and_its_gradient_equal_a_loop(low, high, alpha):
    new, teacher, sampled = _batch()
    advantages = (1.0, -2.0, 0.5)
    loss, stats = mopd_loss(
        new, teacher, sampled, SEQUENCE, num_sequences=3, low=low, high=high,
        advantage_S=torch.tensor(advantages), reward_weight=alpha,
    )  # fmt: skip
    loss.backward()
    wanted, slopes = _by_loop(new.detach(), teacher, sampled, low, high, advantages, alpha)
    assert loss.item() == pytest.approx(wanted, abs=1e-14)
    torch.testing.assert_close(new.grad, torch.tensor(slopes, dtype=torch.float64))
    ratio = (new.detach() - sampled).exp()
    cut = ((ratio < low) | (ratio > high)).float()
    assert stats.is_clipped_S.tolist() == pytest.approx(
        [float(cut[s == SEQUENCE].mean()) for s in range(3)]
    )
    assert stats.ratio_S.tolist() == pytest.approx(
        [float(ratio[s == SEQUENCE].mean()) for s in range(3)]
    )


def test_the_bounds_are_kept_and_the_gap_is_held():
    new = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    sampled = torch.tensor([-math.log(2), math.log(2)], dtype=torch.float64)  # ratios 2 and 1/2
    both = torch.tensor([0, 1])
    teacher = torch.full((2,), -7.0, dtype=torch.float64)
    loss, stats = mopd_loss(new, teacher, sampled, both, num_sequences=2, max_gap=4.0)
    loss.backward()
    assert stats.is_clipped_S.tolist() == [0, 0]
    assert new.grad.tolist() == pytest.approx([2 * 4 / 2, 0.5 * 4 / 2])


def test_on_average_it_is_the_gradient_of_the_reverse_divergence():
    """Each token of the vocabulary, by its probability: no sampling, no noise."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(5, generator=rng, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, generator=rng, dtype=torch.float64).log_softmax(-1)
    student = logits.log_softmax(-1)
    wanted = torch.autograd.grad((student.exp() * (student - teacher)).sum(), logits)[0]
    got = torch.zeros(5, dtype=torch.float64)
    for token in range(5):
        one = torch.tensor([0])
        loss, _ = mopd_loss(
            logits.log_softmax(-1)[[token]], teacher[[token]], student.detach()[[token]], one,
            num_sequences=1,
        )  # fmt: skip
        got += student[token].exp().detach() * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(got, wanted)


def test_the_reverse_divergence_equals_torchs_and_stops_at_the_teacher():
    rng = torch.Generator().manual_seed(2)
    logits, teacher = (torch.randn(6, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    teacher.requires_grad_()
    loss = reverse_kl_loss(logits.requires_grad_(), teacher, SEQUENCE, num_sequences=3)
    each = [
        torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=logits[t]),
            torch.distributions.Categorical(logits=teacher[t]),
        )
        for t in range(6)
    ]
    means = [sum(each[:3]) / 3, each[3], sum(each[4:]) / 2]
    assert loss.item() == pytest.approx(float(sum(means).detach()) / 3)
    loss.backward()
    assert teacher.grad is None
    assert logits.grad.abs().sum() > 0
    same = reverse_kl_loss(logits, logits.detach(), SEQUENCE, num_sequences=3)
    assert same.item() == pytest.approx(0, abs=1e-15)


def test_a_student_learns_from_each_teacher_in_its_domain():
    rng = torch.Generator().manual_seed(3)
    teachers_DV = (2 * torch.randn(2, 4, generator=rng)).log_softmax(-1)
    student_DV = torch.zeros(2, 4, requires_grad=True)
    for _ in range(60):
        domain_S = torch.randint(2, (512,), generator=rng)
        logs_SV = student_DV.log_softmax(-1)[domain_S]
        token_S = torch.multinomial(logs_SV.detach().exp(), 1, generator=rng)
        new = logs_SV.gather(1, token_S)[:, 0]
        teacher = teachers_DV[domain_S].gather(1, token_S)[:, 0]
        loss, _ = mopd_loss(new, teacher, new.detach(), torch.arange(512), num_sequences=512)
        slope_DV = torch.autograd.grad(loss, student_DV)[0]
        student_DV = (student_DV - 4 * slope_DV).detach().requires_grad_()
    learnt = student_DV.detach().log_softmax(-1).exp()
    torch.testing.assert_close(learnt, teachers_DV.exp(), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"teacher": torch.zeros(5)}, "one shape"),
        ({"sequence": SEQUENCE + 1}, "in 0 to 2, got 1 to 3"),
        ({"sequence": SEQUENCE - 1}, "in 0 to 2, got -1 to 1"),
        ({"low": 1.1}, "low <= 1 <= high"),
        ({"high": 0.9}, "low <= 1 <= high"),
        ({"low": -0.1}, "0 <= low"),
        ({"max_gap": 0.0}, "max_gap > 0"),
        ({"reward_weight": 1.0}, "one advantage per sequence"),
        ({"reward_weight": 1.0, "advantage_S": torch.zeros(2)}, "one advantage per sequence"),
        ({"teacher": torch.full((6,), -math.inf)}, "6 tokens are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    new, teacher, sampled = _batch()
    given = {"teacher": teacher, "sequence": SEQUENCE, **change}
    teacher, sequence = given.pop("teacher"), given.pop("sequence")
    with pytest.raises(ValueError, match=match):
        mopd_loss(new, teacher, sampled, sequence, num_sequences=3, **given)


def test_nothing_and_other_vocabularies_are_refused():
    none = torch.zeros(0)
    with pytest.raises(ValueError, match="not empty"):
        mopd_loss(none, none, none, none.long(), num_sequences=1)
    with pytest.raises(ValueError, match=r"one shape \(T, V\)"):
        reverse_kl_loss(torch.zeros(6, 3), torch.zeros(6, 4), SEQUENCE, num_sequences=3)
