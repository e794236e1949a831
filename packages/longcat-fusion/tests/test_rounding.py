"""Updates that rounding loses, and which tensors rules and layouts reach."""

import math

import numpy as np
import pytest
import torch
from longcat_fusion import Gradient, Linear, MergeConfig, Rule, TaskArithmetic, merge, merge_folders
from longcat_fusion._masks import key_of, random_words
from longcat_fusion._numbers import decode, encode

MEAN = MergeConfig(method=Linear())
SUM = MergeConfig(method=TaskArithmetic())


def _one_step_apart(count=4096, experts=3):
    """bf16 experts that each moved other elements by one unit in the last place."""
    base = torch.ones(count, dtype=torch.bfloat16)
    found = []
    for number in range(experts):
        tensor = base.clone()
        tensor[number::experts] = 1 + 2**-7
        found.append({"w": tensor})
    return {"w": base}, found


def test_updates_lost_to_rounding_are_counted_and_stochastic_rounding_keeps_them(tmp_path, make):
    base, experts = _one_step_apart()
    folders = [make.checkpoint(tmp_path / str(n), t) for n, t in enumerate([base, *experts])]
    manifest = merge_folders(folders[0], folders[1:], tmp_path / "a", config=MEAN)
    assert torch.equal(make.read(tmp_path / "a")["w"], base["w"])
    updates = manifest["updates"]
    assert (updates["moved"], updates["lost"], updates["lost_share"]) == (4096, 4096, 1.0)
    assert updates["by_tensor"] == {"w": [4096, 4096]}
    assert "4,096 of them back" in (tmp_path / "a" / "README.md").read_text()

    config = MergeConfig(method=Linear(), rounding="stochastic")
    manifest = merge_folders(folders[0], folders[1:], tmp_path / "b", config=config)
    merged = make.read(tmp_path / "b")["w"].float()
    up = (merged > 1).float().mean()
    assert set(merged.unique().tolist()) == {1.0, 1 + 2**-7}
    assert abs(up - 1 / 3) < 4 * math.sqrt(2 / 9 / 4096)
    assert manifest["updates"]["lost"] == 4096 - int((merged > 1).sum())


def test_stochastic_rounding_is_right_on_average_and_exact_where_exact(rng):
    values = rng.standard_normal(4096).astype(np.float32)
    noise = [random_words(key_of("round", n), 0, 4096) for n in range(400)]
    found = np.stack([decode(encode(values, "BF16", words), "BF16") for words in noise])
    near = decode(encode(values, "BF16"), "BF16")
    step = np.exp2(np.floor(np.log2(np.abs(values))) - 7)
    assert (np.abs(found - values) < step).all()
    assert np.abs(found.mean(0) - values).mean() < 0.1 * np.abs(near - values).mean() + 0.02 * (
        step.mean()
    )
    np.testing.assert_array_equal(encode(near, "BF16", noise[0]), encode(near, "BF16"))


def test_bf16_results_are_the_nearest_to_float64(make):
    base = {"w": (torch.randn(50_000) * 0.05).bfloat16()}
    experts = [make.moved(base, number, size=1e-3) for number in range(3)]
    merged = merge(base, experts, config=SUM)["w"]
    exact = base["w"].double() + sum(e["w"].double() - base["w"].double() for e in experts)
    assert (merged != exact.float().bfloat16()).float().mean() < 1e-4


def test_a_result_that_its_dtype_cannot_hold_is_refused():
    base, expert = {"w": torch.zeros(5).half()}, {"w": torch.full((5,), 60000.0).half()}
    with pytest.raises(ValueError, match="w: the merged element 0 does not fit into F16"):
        merge(base, [expert], config=MergeConfig(method="task_arithmetic", scale=2.0))


def test_protected_kinds_are_not_dropped_and_rules_change_that(make):
    model = make.model(dtype=torch.float32)
    expert = make.moved(model, 0, share=1.0)
    for method in (None, "ties", "dare", "breadcrumbs"):
        merged = merge(model, [expert], config=MergeConfig(method=method))
        for name in model:
            same = torch.allclose(merged[name], expert[name], atol=1e-6)
            protected = any(part in name for part in ("norm", "router", "embed", "bias"))
            assert same == protected, (method, name)
    rules = (
        Rule(kind="norm", parameters={"drop": 0.5}),
        Rule(match="*.experts.1.*", action="copy"),
        Rule(match="*.experts.*", parameters={"drop": 0.0, "scale": 2.0}),
        Rule(match="*.layers.0.*", action="average"),
    )
    merged = merge(model, [expert], config=MergeConfig(drop=0.3, rules=rules))
    at = "model.layers.1"
    assert (merged[f"{at}.input_layernorm.weight"] == model[f"{at}.input_layernorm.weight"]).any()
    name = f"{at}.mlp.experts.1.up_proj.weight"
    assert torch.equal(merged[name], model[name])
    name = f"{at}.mlp.experts.0.up_proj.weight"
    make.near(merged[name], 2 * expert[name] - model[name])
    name = "model.layers.0.self_attn.q_proj.weight"
    make.near(merged[name], expert[name])
    with pytest.raises(ValueError, match="recipe has no setting density, which a rule for"):
        merge(model, [expert], config=MergeConfig(rules=(Rule(parameters={"density": 0.5}),)))


def test_gradients_go_from_the_first_layer_to_the_last():
    model = {f"model.layers.{n}.mlp.up_proj.weight": torch.zeros(4) for n in range(5)}
    model = {"model.embed_tokens.weight": torch.zeros(4), **model, "lm_head.weight": torch.zeros(4)}
    expert = {name: torch.ones(4) for name in model}
    rule = Rule(parameters={"scale": Gradient((0.0, 1.0, 0.5)), "weights": (Gradient((1, 2)),)})
    merged = merge(model, [expert], config=MergeConfig(method="task_arithmetic", rules=(rule,)))
    got = [round(float(tensor[0]), 6) for tensor in merged.values()]
    scales, weights = [0, 0, 0.5, 1, 0.75, 0.5, 0.5], [1, 1, 1.25, 1.5, 1.75, 2, 2]
    assert got == [s * w for s, w in zip(scales, weights, strict=True)]


def test_longcat_and_deepseek_layouts_keep_every_tensor(make):
    for names in (
        ["model.layers.0.mlp.experts.{}.gate_proj.weight", "model.layers.0.mlps.1.up_proj.weight",
         "model.layers.0.mlp.router.classifier.weight",
         "model.layers.0.self_attn.1.kv_b_proj.weight",
         "model.mtp.layers.0.embed_norm.weight", "model.ngram_embeddings.embedders.0.weight"],
        ["model.layers.3.mlp.experts.{}.gate_proj.weight", "model.layers.61.eh_proj.weight",
         "model.layers.3.mlp.gate.weight", "model.layers.3.mlp.shared_experts.up_proj.weight"],
    ):  # fmt: skip
        model = {name.format(e): torch.randn(8, 8) for name in names for e in range(3)}
        merged = merge(model, [make.moved(model, 0), make.moved(model, 1)])
        assert list(merged) == list(model)


def test_an_even_mean_is_the_nearest_and_holds_what_its_sum_does_not(make):
    """Thirds that are rounded before they are added miss the nearest bf16 number."""
    base = {"w": (torch.randn(50_000) * 0.05).bfloat16()}
    experts = [make.moved(base, number, size=1e-3) for number in range(3)]
    exact = sum(e["w"].double() for e in experts) / 3
    found = merge(base, experts, config=MEAN)["w"]
    assert torch.equal(found, exact.float().bfloat16())
    large = [{"w": torch.full((9,), value)} for value in (3.4e38, 3.3e38, 3.2e38)]
    far = merge({"w": torch.zeros(9)}, large, config=MEAN)["w"]
    assert torch.allclose(far, torch.full((9,), 3.3e38))
