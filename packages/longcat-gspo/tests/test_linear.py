"""Chunked log-probs against the plain way and finite differences; GIFT by its definition."""

import math

import pytest
import torch
from longcat_gspo import gift_loss, linear_log_probs
from longcat_gspo._linear import fitting_tokens


def _case(dtype=torch.float64, num=23, width=7, words=31):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, width, generator=g, dtype=dtype, requires_grad=True)
    weight = torch.randn(words, width, generator=g, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, words, (num,), generator=g)


@pytest.mark.parametrize("chunk", [1, 5, 23, 100, None])
def test_values_and_gradients_equal_the_plain_way(chunk):
    hidden, weight, target = _case()
    pull = torch.randn(23, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = (hidden @ weight.T).log_softmax(-1).gather(1, target[:, None])[:, 0]
    expected = torch.autograd.grad((plain * pull).sum(), [hidden, weight])
    got = linear_log_probs(hidden, weight, target, chunk_tokens=chunk)
    torch.testing.assert_close(got, plain, atol=1e-12, rtol=0)
    for mine, other in zip(torch.autograd.grad((got * pull).sum(), [hidden, weight]), expected,
                           strict=True):  # fmt: skip
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=0)


def test_gradients_equal_finite_differences():
    hidden, weight, target = _case(num=5, width=3, words=6)

    def call(hidden, weight):
        return linear_log_probs(hidden, weight, target, chunk_tokens=2)

    assert torch.autograd.gradcheck(call, (hidden, weight))


def test_only_what_is_asked_for_is_differentiated_and_bf16_is_summed_in_float32():
    hidden, weight, target = _case(torch.bfloat16)
    got = linear_log_probs(hidden, weight.detach(), target)
    assert got.dtype == torch.float32
    got.sum().backward()
    assert weight.grad is None
    assert hidden.grad.dtype == torch.bfloat16
    plain = (hidden.float() @ weight.float().T).log_softmax(-1).gather(1, target[:, None])[:, 0]
    assert (got - plain).abs().max() < 0.1


def test_no_matrix_of_tokens_by_words_is_ever_held():
    hidden, weight, target = _case(torch.float32, num=512, width=8, words=4096)
    whole = 512 * 4096 * 4
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_log_probs(hidden, weight, target, chunk_tokens=16).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < whole / 16


def test_wrong_shapes_are_named():
    hidden, weight, target = _case()
    with pytest.raises(ValueError, match=r"need hidden \(T, D\)"):
        linear_log_probs(hidden, weight, target[:4])
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1"):
        linear_log_probs(hidden, weight, target, chunk_tokens=0)


def _gift_by_definition(logits, reference, target, beta, smoothing):
    """Build the target distribution word by word, as the released code does."""
    p = reference.softmax(-1)
    p = (1 - smoothing) * p + smoothing / p.shape[-1]
    z = p.log()
    z[torch.arange(len(target)), target] += beta
    return -(z.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


@pytest.mark.parametrize(("beta", "smoothing"), [(0.5, 0.0), (3.0, 0.1), (20.0, 0.0), (20.0, 0.01)])
def test_gift_equals_its_definition(beta, smoothing):
    g = torch.Generator().manual_seed(2)
    reference = 3 * torch.randn(9, 13, generator=g)
    logits = torch.randn(9, 13, generator=g, requires_grad=True)
    target = torch.randint(0, 13, (9,), generator=g)
    expected = _gift_by_definition(logits, reference, target, beta, smoothing)
    got = gift_loss(logits, reference, target, beta=beta, smoothing=smoothing)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    (a,), (b,) = torch.autograd.grad(got, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_limits_of_gift_are_distillation_and_cross_entropy():
    g = torch.Generator().manual_seed(3)
    logits, reference = torch.randn(4, 6, generator=g), torch.randn(4, 6, generator=g)
    target = torch.tensor([0, 5, 2, 2])
    distil = -(reference.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    plain = torch.nn.functional.cross_entropy(logits, target)
    assert gift_loss(logits, reference, target, beta=0).item() == pytest.approx(distil.item())
    assert gift_loss(logits, reference, target, beta=math.inf).item() == pytest.approx(plain.item())
    assert gift_loss(logits, reference, target, beta=60).item() == pytest.approx(plain.item())
    with pytest.raises(ValueError, match="beta >= 0"):
        gift_loss(logits, reference, target, beta=-1)


def test_gift_gives_up_on_words_the_base_cannot_say():
    """The figures of the paper's temperature: q(y) at beta = 20 for three probabilities."""
    for p, q in ((1e-12, 0.0005), (1e-9, 0.327), (1e-6, 0.998)):
        reference = torch.tensor([[math.log(p), math.log1p(-p)]])
        logits = torch.zeros(1, 2, requires_grad=True)
        gift_loss(logits, reference, torch.tensor([0]), beta=20).backward()
        assert 0.5 - logits.grad[0, 0].item() == pytest.approx(q, abs=6e-4)


def test_chunks_fit_their_memory_and_hold_a_token_at_least():
    assert fitting_tokens(131_072, is_cuda=False) == 256  # 4 bytes each: 128 MB
    assert fitting_tokens(131_072, is_cuda=True) == 1024
    assert fitting_tokens(10**9, is_cuda=False) == 1
