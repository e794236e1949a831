"""The model against transformers, the report's dataflow, and its parameter count."""

import json

import pytest
import torch
from longcat_moe import BiasController, LongcatConfig, LongcatForCausalLM, count_parameters


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(1))


def test_logits_equal_transformers_from_the_same_folder(model, ids, tmp_path):
    transformers = pytest.importorskip("transformers")
    model.save_pretrained(tmp_path, for_transformers=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = LongcatForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == "LongcatFlashForCausalLM"
    with torch.no_grad():
        expected, got = theirs.eval()(ids).logits, ours(ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_folder_saved_by_transformers_loads_here(config, ids, tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = {**config.to_dict(), "num_hidden_layers": config.num_attentions}
    theirs = transformers.LongcatFlashForCausalLM(transformers.LongcatFlashConfig(**settings))
    theirs.eval().save_pretrained(tmp_path)
    ours = LongcatForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


def test_layer_follows_the_reports_dataflow(model, config, ids):
    layer = model.model.layers[0]
    x = torch.randn(1, 9, config.hidden_size)
    from longcat_moe._rotary import rotary_tables

    rotary = rotary_tables(torch.arange(9)[None], config)
    with torch.no_grad():
        a = x + layer.self_attn[0](layer.input_layernorm[0](x), rotary)
        h = layer.post_attention_layernorm[0](a)
        moe = layer.mlp(h[0])[None]
        b = a + layer.mlps[0](h)
        c = b + layer.self_attn[1](layer.input_layernorm[1](b), rotary)
        h1 = layer.post_attention_layernorm[1](c)
        expected = c + layer.mlps[1](h1) + moe
        misplaced = c + layer.mlps[1](h1) + layer.mlp(h1[0])[None]
        got = layer(x, rotary, None, None)
    torch.testing.assert_close(got, expected)
    assert (got - misplaced).abs().max() > 1e-2


def test_experts_equal_a_loop_over_tokens(model, config):
    moe = model.model.layers[0].mlp
    x = torch.randn(13, config.hidden_size)
    with torch.no_grad():
        weight, index = moe.router(x)
        got = moe(x)
        expected = torch.zeros_like(x)
        for t in range(13):
            for w, e in zip(weight[t], index[t].tolist(), strict=True):
                if e >= config.n_routed_experts:
                    expected[t] += w * x[t]
                    continue
                gate, up = (moe.experts.gate_up_proj[e] @ x[t]).chunk(2)
                y = moe.experts.down_proj[e] @ (torch.nn.functional.silu(gate) * up)
                expected[t] += w * y
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_bias_steers_the_choice_and_never_the_weight(model, config):
    router = model.model.layers[0].mlp.router
    x = torch.randn(5, config.hidden_size)
    router.e_score_correction_bias[3] = 100.0
    with torch.no_grad():
        weight, index = router(x)
        scores = (x @ router.classifier.weight.T).softmax(-1)
    assert (index == 3).any(-1).all()
    torch.testing.assert_close(weight, scores.gather(1, index) * config.routed_scaling_factor)


def test_bias_controller_reaches_the_target_and_spares_identity_experts(config):
    torch.manual_seed(0)
    model = LongcatForCausalLM(config).train()
    for layer in model.model.layers:  # start far away: every token prefers identity experts
        layer.mlp.router.classifier.weight.data[config.n_routed_experts :] *= 3
    controller = BiasController(model, config, rate=0.5)
    ids = torch.randint(0, 96, (8, 64))
    with torch.no_grad():
        active = []
        for _ in range(150):
            model(ids)
            active.append(controller.step())
    target = config.num_active_ffn_experts
    assert abs(active[0] - target) > 0.05 * target
    assert abs(sum(active[-20:]) / 20 - target) < 0.02 * target
    for layer in model.model.layers:
        assert (layer.mlp.router.e_score_correction_bias[config.n_routed_experts :] == 0).all()


def test_padding_changes_nothing_on_the_right_or_the_left(model, ids):
    mask = torch.ones_like(ids)
    mask[0, 11:] = 0
    with torch.no_grad():
        padded = model(ids, attention_mask=mask).logits
        alone = model(ids[:1, :11]).logits
    torch.testing.assert_close(padded[:1, :11], alone, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        moved = torch.cat([ids[:1, 11:], ids[:1, :11]], dim=1)
        padded = model(torch.cat([moved, ids[1:]]), attention_mask=mask.flip(1)).logits
    torch.testing.assert_close(padded[:1, -11:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[1:], model(ids[1:]).logits, atol=1e-5, rtol=1e-5)


def test_parameter_count_is_the_published_one():
    total = count_parameters(LongcatConfig())
    assert round(total / 1e9, 2) == 560.66


def test_gradients_reach_every_weight(config, ids):
    model = LongcatForCausalLM(config)
    ids = torch.randint(0, 96, (8, 64))
    torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten()).backward()
    missing = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "must hold model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "must be JSON"),
        (lambda f: _truncate(f / "model.safetensors"), "must be a whole safetensors file"),
        (lambda f: _edit(f, hidden_size=64), "the checkpoint holds"),
        (lambda f: _edit(f, num_layers=3, num_hidden_layers=6), "must hold 'model.layers.2"),
        (lambda f: _edit(f, num_layers=3), "num_hidden_layers must be"),
        (lambda f: _edit(f, rope_scaling={"type": "yarn"}), "YaRN needs factor"),
        (lambda f: _edit(f, model_type="llama"), "model_type must be"),
    ],
)
def test_a_broken_checkpoint_is_one_clear_error(model, tmp_path, damage, words):
    model.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        LongcatForCausalLM.from_pretrained(tmp_path)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_logits_where_they_are_wanted_are_those_of_the_whole(model, ids):
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, 3], mask[1, 7:9] = True, True
    with torch.no_grad():
        torch.testing.assert_close(model(ids, logits_mask=mask).logits, model(ids).logits[mask])
