"""Auxiliary losses against loops, and what they are for."""

import dataclasses
import math

import pytest
import torch
from longcat_moe import (
    BiasController,
    LongcatForCausalLM,
    balance_gradient_ratio,
    hidden_z_loss,
    load_balance_loss,
    mtp_loss,
    record_routing,
)

IDS = torch.randint(3, 96, (4, 20), generator=torch.Generator().manual_seed(0))


def test_load_balance_loss_is_equations_3_to_5(model, config):
    with record_routing(model) as routings:
        model(IDS)
    assert len(routings) == config.num_layers
    num_groups, k, k_e = 2, config.moe_topk, config.num_active_ffn_experts
    per_group, expected = config.n_routed_experts // num_groups, 0.0
    for routing in routings:
        num_tokens = len(routing.scores_TE)
        groups = [range(j * per_group, (j + 1) * per_group) for j in range(num_groups)]
        groups.append(range(config.n_routed_experts, config.num_experts))
        for j, group in enumerate(groups):
            mean = sum(row[i] for row in routing.scores_TE.tolist() for i in group) / num_tokens
            chosen = sum(int(i in group) for row in routing.index_TK.tolist() for i in row)
            factor = num_groups / k_e if j < num_groups else 1 / (k - k_e)
            expected += factor * chosen / num_tokens * mean
    got = load_balance_loss(routings, config, num_groups=num_groups)
    assert got.item() == pytest.approx(expected / config.num_layers, rel=1e-5)
    with pytest.raises(ValueError, match="num_groups=3"):
        load_balance_loss(routings, config, num_groups=3)
    with pytest.raises(ValueError, match="got none"):
        load_balance_loss([], config, num_groups=2)


def test_descending_the_balance_loss_evens_groups_out(config):
    torch.manual_seed(0)
    model = LongcatForCausalLM(config)
    with torch.no_grad():  # begin far from balance: one device's experts are favoured
        model.model.embed_tokens.weight += 0.5  # what all tokens have in common ..
        for layer in model.model.layers:
            layer.mlp.router.classifier.weight[:4] += 0.05  # .. speaks for the first experts
    weights = [layer.mlp.router.classifier.weight for layer in model.model.layers]
    optimizer = torch.optim.Adam(weights, lr=1e-2)

    def spread():
        with record_routing(model) as routings, torch.no_grad():
            model(IDS)
        chosen = sum(torch.bincount(r.index_TK.flatten(), minlength=12).float() for r in routings)
        groups = torch.stack([chosen[:4].sum(), chosen[4:8].sum(), chosen[8:].sum()])
        return float((groups / groups.sum() - 1 / 3).abs().max())

    before = spread()
    for _ in range(60):
        with record_routing(model) as routings:
            model(IDS)
        loss = load_balance_loss(routings, config, num_groups=2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 0.1
    assert spread() < before / 3


def test_r_g_is_the_ratio_of_pulls_on_the_mean_probabilities(model, config):
    """Against a finite difference: shift every token's scores by the same vector."""
    with record_routing(model) as routings:
        logits = model(IDS).logits
    lm_loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    balance = load_balance_loss(routings, config, num_groups=2)
    ratio = balance_gradient_ratio(lm_loss, balance, routings, alpha=0.5)
    assert balance_gradient_ratio(lm_loss, balance, routings, alpha=1.0) == pytest.approx(2 * ratio)
    # dL_LB / dP is f itself, spread over the experts of a group.
    grads = torch.autograd.grad(balance, [r.scores_TE for r in routings], retain_graph=True)
    pull = torch.cat([g.sum(0) for g in grads])
    shift = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 1e-2
    moved = [dataclasses.replace(r, scores_TE=r.scores_TE.detach() + shift) for r in routings]
    difference = load_balance_loss(moved, config, num_groups=2) - balance
    assert difference.item() == pytest.approx((pull.view(2, 12) * shift).sum().item(), rel=1e-3)


@torch.no_grad()
def test_hidden_z_loss_is_equation_10_and_hears_no_padding(model):
    state = model.model.last_state(IDS)
    expected = [
        math.log(sum(math.exp(abs(float(z))) for z in token)) ** 2
        for token in state.detach().flatten(0, 1)
    ]
    assert float(hidden_z_loss(state)) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    mask = torch.ones_like(IDS)
    mask[:, 10:] = 0
    assert float(hidden_z_loss(state, mask)) == pytest.approx(float(hidden_z_loss(state[:, :10])))


@torch.no_grad()
def test_mtp_loss_predicts_the_token_after_the_next(config):
    torch.manual_seed(0)
    config = dataclasses.replace(config, num_nextn_predict_layers=1)
    model = LongcatForCausalLM(config).eval()
    hidden = model.model(IDS)
    got = mtp_loss(model, hidden, IDS)
    guess = model.lm_head(model.predict_next(hidden[:, :-2], IDS[:, 1:-1])).log_softmax(-1)
    expected = [-float(guess[b, t, IDS[b, t + 2]]) for b in range(4) for t in range(18)]
    assert float(got) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    # Packed, no text hears of the next one.
    packed, lengths = IDS[:2].reshape(1, 40), [20, 20]
    hidden = model.model(packed, lengths=lengths)
    assert float(mtp_loss(model, hidden, packed, lengths=lengths)) == pytest.approx(
        sum(expected[:36]) / 36, rel=1e-4
    )
    mask = torch.zeros_like(IDS)
    mask[1, 7] = 1
    assert float(mtp_loss(model, model.model(IDS), IDS, mask=mask)) == pytest.approx(
        expected[18 + 5], rel=1e-4
    )
    with pytest.raises(ValueError, match="three tokens"):
        mtp_loss(model, model.model(IDS[:, :2]), IDS[:, :2])


def test_the_bias_controller_reaches_k_e_within_one_per_cent(config):
    """With tokens whose scores vary, as after some training."""
    torch.manual_seed(0)
    model = LongcatForCausalLM(config).train()
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.5  # what all tokens have in common speaks for FFNs
        for layer in model.model.layers:
            layer.mlp.router.classifier.weight[: config.n_routed_experts] += 0.02
    controller, recent = BiasController(model, config, rate=0.02), []
    for step in range(200):
        ids = torch.randint(3, 96, (4, 64), generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            model(ids)
        controller.rate = 1.0 * 0.98**step
        recent.append(controller.step())
    target = config.num_active_ffn_experts
    assert abs(recent[0] - target) > 0.05 * target
    assert sum(recent[-50:]) / 50 == pytest.approx(target, rel=0.01)


def test_router_similarity_is_the_mean_over_pairs(model):
    from longcat_moe import router_similarity

    got = router_similarity(model)
    for layer, value in zip(model.model.layers, got, strict=True):
        rows = layer.mlp.router.classifier.weight.tolist()
        cosines = []
        for i, a in enumerate(rows):
            for b in rows[:i]:
                dot = sum(x * y for x, y in zip(a, b, strict=True))
                norms = sum(x * x for x in a) * sum(y * y for y in b)
                cosines.append(dot / norms**0.5)
        assert value == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)
    with torch.no_grad():
        model.model.layers[0].mlp.router.classifier.weight[:] = torch.arange(1.0, 49)
    assert router_similarity(model)[0] == pytest.approx(1)
