"""Packed texts, checkpointed activations, norms, growth, determinism."""

import dataclasses

import pytest
import torch
from longcat_moe import (
    LongcatForCausalLM,
    YarnScaling,
    init_from_proxy,
    param_groups,
    stack_layers,
    variance_compensation,
)
from longcat_moe._config import NORMS
from longcat_moe._experts import MoE
from longcat_moe._layers import DenseFFN

TEXTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [5, 6, 7]]


@pytest.mark.parametrize("ngrams", [False, True])
def test_packed_texts_do_not_see_each_other(config, ngrams):
    torch.manual_seed(0)
    if ngrams:
        config = dataclasses.replace(config, ngram_vocab_size_ratio=2.3)
    model = LongcatForCausalLM(config).eval()
    packed = torch.tensor([[t for text in TEXTS for t in text]])
    lengths = [len(text) for text in TEXTS]
    with torch.no_grad():
        together = model(packed, lengths=lengths).logits[0].split(lengths)
        for text, logits in zip(TEXTS, together, strict=True):
            assert torch.allclose(logits, model(torch.tensor([text])).logits[0], atol=1e-5)
    with pytest.raises(ValueError, match="fill input_ids"):
        model(packed, lengths=[3, 3])


def _gradients(model, **options):
    ids = torch.randint(3, 96, (2, 24), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    logits = model(ids, **options).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return [p.grad.clone() for p in model.parameters()]


def test_checkpointed_activations_give_the_same_gradients(model):
    plain = _gradients(model)
    model.gradient_checkpointing_enable()
    again = _gradients(model)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_training_step_is_the_same_bit_by_bit(config):
    def run():
        torch.manual_seed(0)
        model = LongcatForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            _gradients(model)
            optimizer.step()
        return model.state_dict().values()

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


# -- norms -----------------------------------------------------------------------------------


def _rms(x):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def _by_formula(model, ids, norm):
    """Every wiring, written out; all norm weights are one."""
    from longcat_moe._rotary import rotary_tables

    config = model.config
    rotary = rotary_tables(torch.arange(ids.shape[1])[None], config)
    x, num, shortcut = model.model.embed_tokens(ids), 2 * config.num_layers, None
    for block in range(num):
        layer, i = model.model.layers[block // 2], block % 2

        def f(h, layer=layer, i=i):
            return layer.self_attn[i](h, rotary)

        def g(h, layer=layer, i=i):
            nonlocal shortcut
            if i == 0:
                shortcut = layer.mlp(h.flatten(0, 1)).view_as(h)
                return layer.mlps[0](h)
            return layer.mlps[1](h) + shortcut

        kind = norm if norm != "mix" else ("post" if block < num / 4 else "pre")
        if kind == "pre":
            y = x + f(_rms(x))
            x = y + g(_rms(y))
        elif kind == "post":
            y = _rms(x + f(x))
            x = _rms(y + g(y))
        elif kind == "deep":
            a = (2 * num) ** 0.25
            y = _rms(a * x + f(x))
            x = _rms(a * y + g(y))
        elif kind == "span":
            y = _rms(x + f(_rms(x) if block == 0 else x))
            x = _rms(x + g(y))
        elif kind == "hybrid":
            z = _rms(x + f(x))
            x = z + g(z)
        else:
            y = x + _rms(f(_rms(x)))
            x = y + _rms(g(_rms(y)))
    return model.lm_head(x if norm in ("post", "deep", "span") else _rms(x))


@pytest.mark.parametrize("norm", NORMS)
def test_a_last_norm_follows_blocks_that_do_not_end_in_one(config, norm):
    """It would hardly be seen in the logits: what is normed already stays what it is."""
    model = LongcatForCausalLM(dataclasses.replace(config, norm=norm))
    has_norm = "model.norm.weight" in dict(model.named_parameters())
    assert has_norm == (norm not in ("post", "deep", "span"))


@pytest.mark.parametrize("norm", NORMS)
def test_a_wiring_is_its_formula(config, norm):
    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, norm=norm)).eval()
    ids = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, _by_formula(model, ids, norm), atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_of_a_wiring_is_trained_and_saved(config, norm, tmp_path):
    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, norm=norm))
    _gradients(model)  # raises on a parameter without a gradient
    model.save_pretrained(tmp_path)
    again = LongcatForCausalLM.from_pretrained(tmp_path)
    assert again.config == model.config
    pairs = zip(again.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_span_keeps_unit_variance_and_without_ffn_forgets_attention(config):
    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, norm="span", num_layers=6)).eval()
    ids = torch.randint(3, 96, (2, 9))
    with torch.no_grad():
        squares = model.model.last_state(ids).pow(2).mean(-1)
        assert torch.allclose(squares, torch.ones_like(squares), atol=1e-3)
        for layer in model.model.layers:  # FFN = 0: the block is Norm(x), whatever attention says
            layer.mlps[0].down_proj.weight.zero_()
            layer.mlps[1].down_proj.weight.zero_()
            layer.mlp.experts.down_proj.zero_()
            layer.mlp.router.e_score_correction_bias[config.n_routed_experts :] = -10
        expected = _rms(model.model.embed_tokens(ids))
        # Norms again and again of the same thing; eps takes a little each time.
        assert torch.allclose(model.model.last_state(ids), expected, atol=1e-3)


def test_deep_and_span_draw_what_writes_into_the_skip_smaller(config):
    stds = {}
    for norm in ("pre", "span", "deep"):
        torch.manual_seed(0)
        model = LongcatForCausalLM(dataclasses.replace(config, norm=norm))
        layer, latent = model.model.layers[0], model.model.layers[0].self_attn[0]
        per_head = latent.kv_b_proj.weight.unflatten(0, (3, -1))
        stds[norm] = [
            w.std().item()
            for w in (latent.o_proj.weight, layer.mlps[0].down_proj.weight,
                      layer.mlp.experts.down_proj, per_head[:, 8:], per_head[:, :8],
                      layer.mlp.experts.gate_up_proj)
        ]  # fmt: skip
    ratio = {n: [a / b for a, b in zip(stds[n], stds["pre"], strict=True)] for n in stds}
    assert ratio["span"] == pytest.approx([0.5, 0.5, 0.5, 1, 1, 1], rel=1e-3)
    beta = 32**-0.25
    assert ratio["deep"] == pytest.approx([beta, beta, beta, beta, 1, beta], rel=1e-3)


# -- growth ----------------------------------------------------------------------------------


def test_fine_experts_with_compensation_speak_as_loud_as_one_ffn():
    """Equation 8, at a small model's sizes: a dense FFN against 6 finer experts, top 6 of 6."""
    from longcat_moe import LongcatConfig

    torch.manual_seed(0)
    config = LongcatConfig(
        vocab_size=8, hidden_size=256, ffn_hidden_size=768, expert_ffn_hidden_size=128,
        n_routed_experts=6, zero_expert_num=0, moe_topk=6, initializer_range=0.05,
        routed_scaling_factor=6.0, num_layers=1, num_attention_heads=2, q_lora_rank=16,
        kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
    )  # fmt: skip
    assert variance_compensation(config) == config.routed_scaling_factor == 6
    moe, dense = MoE(config), DenseFFN(256, 768)
    x = torch.randn(4096, 256)
    with torch.no_grad():
        for weight in (*dense.parameters(), *moe.experts.parameters()):
            weight.normal_(std=0.05)
        moe.router.classifier.weight.zero_()  # equal gates of 1/6
        ratio = moe(x).var() / dense(x).var()
    # Six experts of a sixth of the width and gates of a sixth, times six: the variance of one.
    assert float(ratio) == pytest.approx(1.0, abs=0.1)


def test_width_transfer_scales_variance_and_rate_of_matrices_alone(config):
    torch.manual_seed(0)
    plain = LongcatForCausalLM(config)
    torch.manual_seed(0)
    moved = init_from_proxy(LongcatForCausalLM(config), proxy_width=6)  # s = 8
    for (name, a), b in zip(plain.named_parameters(), moved.parameters(), strict=True):
        is_matrix = a.dim() > 1 and "embed" not in name
        assert torch.allclose(b, a * (8**-0.5 if is_matrix else 1)), name
    matrices, rest = param_groups(moved, lr=1e-3, proxy_width=6)
    assert (matrices["lr"], rest["lr"]) == (1e-3 / 8, 1e-3)
    assert len(matrices["params"]) + len(rest["params"]) == len(list(moved.parameters()))
    assert any(w is moved.lm_head.weight for w in matrices["params"])
    assert any(w is moved.model.embed_tokens.weight for w in rest["params"])


def test_a_grown_model_is_the_small_one_twice(model, config):
    large = stack_layers(model).eval()
    assert large.config.num_layers == 2 * config.num_layers
    ids = torch.tensor([[5, 6, 7]])
    from longcat_moe._rotary import rotary_tables

    rotary = rotary_tables(torch.arange(3)[None], config)
    with torch.no_grad():
        x = model.model.embed_tokens(ids)
        for layer in [*model.model.layers, *model.model.layers]:
            x = layer(x, rotary, None, None)
        assert torch.allclose(large(ids).logits, model.lm_head(model.model.norm(x)), atol=1e-5)
    with torch.no_grad():  # it is a copy
        large.model.layers[0].mlps[0].up_proj.weight.zero_()
    assert model.model.layers[0].mlps[0].up_proj.weight.abs().sum() > 0


def test_amplified_embeddings_are_multiplied_by_the_root_of_the_width(config):
    torch.manual_seed(0)
    config = dataclasses.replace(config, ngram_vocab_size_ratio=2.3)
    plain = LongcatForCausalLM(config)
    loud = LongcatForCausalLM(dataclasses.replace(config, emb_amplify=True))
    loud.load_state_dict(plain.state_dict())
    ids = torch.tensor([[5, 6, 7]])
    quiet = plain.model.ngram_embeddings(plain.model.embed_tokens(ids), ids, None)
    got = loud.model.ngram_embeddings(loud.model.embed_tokens(ids), ids, None)
    assert torch.allclose(got, quiet * config.hidden_size**0.5)


def test_yarn_reaches_the_engine_too(config):
    scaling = YarnScaling(factor=4, original_max_position_embeddings=64)
    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, rope_scaling=scaling)).eval()
    from longcat_moe import Engine

    engine = Engine(model.config, num_slots=1, max_length=64)
    engine.add_model(0, model)
    import asyncio

    async def answer():
        c = await engine.open(0)
        return await engine.generate(c, list(range(5, 40)), max_tokens=5, stop_ids=())

    got = asyncio.run(answer())
    with torch.no_grad():
        ids = torch.tensor([[*range(5, 40), *got.token_ids]])
        logits = model(ids).logits[0].log_softmax(-1)
    expected = [float(logits[34 + i, t]) for i, t in enumerate(got.token_ids)]
    assert got.log_probs == pytest.approx(expected, abs=1e-4)


def test_a_checkpointed_layer_is_counted_and_recorded_once(model):
    """Counts, records and the gradient of the balance loss, with and without checkpointing."""
    from longcat_moe import load_balance_loss, record_routing

    ids, found = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(0)), []
    model.train()
    for is_checkpointing in (False, True):
        model.model.is_checkpointing = is_checkpointing
        model.zero_grad()
        routers = [layer.mlp.router for layer in model.model.layers]
        for router in routers:
            router.counts.zero_()
        with record_routing(model) as routings:
            loss = model(ids).logits.square().mean()
            loss = loss + load_balance_loss(routings, model.config, num_groups=2)
            loss.backward()
        counts = torch.stack([router.counts.clone() for router in routers])
        found.append((counts, len(routings), [p.grad.clone() for p in model.parameters()]))
    assert found[0][0].sum() == 2 * 24 * 4
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] == 2
    for plain, again in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(plain, again)
