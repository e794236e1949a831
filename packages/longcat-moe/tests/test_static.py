"""The ways of computing that never wait for the device, against the plain ones, on CPU."""

import pytest
import torch
from longcat_moe._experts import Experts, dispatch, dispatch_static


def _experts(config, model):
    return model.model.layers[0].mlp.experts


@pytest.mark.parametrize("seed", range(20))
def test_static_dispatch_equals_dispatch_both_ways(config, model, seed):
    g = torch.Generator().manual_seed(seed)
    experts: Experts = _experts(config, model)
    num = int(torch.randint(1, 30, (), generator=g))
    # Some seeds choose identity experts alone, some none of them.
    low, high = [(0, config.num_experts), (config.n_routed_experts, config.num_experts),
                 (0, config.n_routed_experts)][seed % 3]  # fmt: skip
    index = torch.stack([low + torch.randperm(high - low, generator=g)[:4] for _ in range(num)])
    x = torch.randn(num, config.hidden_size, generator=g)
    weight = torch.rand(num, 4, generator=g)
    slope = torch.randn(num, config.hidden_size, generator=g)
    found = []
    for way in (dispatch, dispatch_static):
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        # What the allocator hands out next is full of NaN: rows that nobody writes show.
        del_me = [torch.full((s,), float("nan")) for s in (4096, 9216, 18432) for _ in range(4)]
        del del_me
        out = way(*leaves, index, config.n_routed_experts, experts._grouped_ffn)
        experts.zero_grad()
        out.backward(slope)
        weights = [p.grad.clone() for p in experts.parameters() if p.grad is not None]
        found.append([out.detach(), *(t.grad for t in leaves), *weights])
    plain, static = found
    for a, b in zip(plain[:3], static[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(plain[3:], static[3:], strict=False):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_counts_are_those_of_every_choice(config, model):
    model.train()
    ids = torch.randint(3, 96, (2, 30))
    for _ in range(2):
        model(ids)
    for layer in model.model.layers:
        assert layer.mlp.router.counts.sum() == 2 * 60 * config.moe_topk
