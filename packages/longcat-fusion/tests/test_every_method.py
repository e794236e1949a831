"""What holds for every method alike, and settings that are refused."""

import itertools

import numpy as np
import pytest
import torch
from longcat_fusion import (
    METHODS,
    Breadcrumbs,
    Dare,
    Della,
    Karcher,
    MergeConfig,
    Ram,
    Recipe,
    ResMerge,
    Rule,
    Sce,
    Slerp,
    Ties,
    merge,
    merge_tensor,
)

NAME = "model.layers.0.mlp.up_proj.weight"


def _merge(inputs, method, **settings):
    base, experts = inputs
    config = MergeConfig(method=method, **settings)
    tensors = [torch.from_numpy(expert.copy()) for expert in experts]
    got = merge_tensor(torch.from_numpy(base.copy()), tensors, config=config, name=NAME)
    return got.numpy()


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("linear", "slerp", "karcher")])
def test_scale_is_not_ignored(inputs, name):
    whole = _merge(inputs, name, scale=1.0) - inputs[0]
    half = _merge(inputs, name, scale=0.5) - inputs[0]
    assert np.abs(whole).max() > 0.01
    np.testing.assert_allclose(half, whole / 2, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "slerp", "karcher"])
def test_scale_is_refused_where_there_is_no_task_vector(name):
    with pytest.raises(ValueError, match="no task vector to scale"):
        MergeConfig(method=name, scale=0.5)


@pytest.mark.parametrize("name", METHODS)
def test_experts_that_did_not_move_give_the_base_back(inputs, name):
    base = inputs[0]
    experts = [base] if name == "slerp" else [base, base]
    np.testing.assert_allclose(_merge((base, experts), name), base, rtol=3e-7)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_experts_changes_nothing(inputs, name):
    base, experts = inputs
    if name == "slerp":
        return
    orders = [_merge((base, [experts[i] for i in order]), name)
              for order in itertools.permutations(range(3))]  # fmt: skip
    for other in orders[1:]:
        np.testing.assert_allclose(other, orders[0], rtol=0, atol=1e-6)


def test_settings_outside_their_range_are_refused():
    for build in (
        lambda: Ties(density=1.5), lambda: Ties(density=-0.1), lambda: Dare(density=0.0),
        lambda: Dare(rescale="l2"), lambda: Della(density=0.9, epsilon=0.2),
        lambda: Breadcrumbs(gamma=2), lambda: Sce(select=float("nan")), lambda: Slerp(t=1.1),
        lambda: Ram(threshold=-1), lambda: Karcher(steps=-1), lambda: ResMerge(rank=0),
        lambda: Recipe(drop=1.0), lambda: MergeConfig(drop=-0.1), lambda: MergeConfig(drop=1),
        lambda: MergeConfig(scale=float("inf")), lambda: MergeConfig(weights=(float("nan"),)),
        lambda: MergeConfig(method="tiess"), lambda: MergeConfig(method="ties", drop=0.5),
        lambda: MergeConfig(rounding="up"), lambda: MergeConfig(protect=("routers",)),
        lambda: MergeConfig(budget_bytes=0), lambda: MergeConfig(threads=0),
        lambda: MergeConfig(dtype="BF17"), lambda: ResMerge(beta_min=2.0),
        lambda: MergeConfig(method=5), lambda: MergeConfig(method=Ties),
        lambda: MergeConfig(normalise="no"), lambda: MergeConfig(erase=None),
        lambda: MergeConfig(seed="a"), lambda: MergeConfig(seed=1.5), lambda: MergeConfig(seed=None),
        lambda: MergeConfig(weights=5), lambda: MergeConfig(threads="2"),
        lambda: MergeConfig(threads=1.5), lambda: MergeConfig(budget_bytes="1GB"),
        lambda: MergeConfig(rules=Rule()), lambda: MergeConfig(rules=("x",)),
        lambda: MergeConfig(tokenizer=5), lambda: MergeConfig(digests="no"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be|must not|must name|need|belongs"):
            build()


@pytest.mark.parametrize("setting", [{"scale": float("nan")}, {"weights": ("a",)}])
def test_a_rule_sets_finite_numbers(setting):
    config = MergeConfig(rules=(Rule(parameters=setting),))
    with pytest.raises(ValueError, match="scale and weights must be finite numbers"):
        config.for_tensor("w", 1)


def test_sums_beyond_float32_are_refused_without_a_warning():
    base, expert = {"w": torch.zeros(4)}, {"w": torch.full((4,), 3e38)}
    with pytest.raises(ValueError, match="w: the merged element 0 does not fit into F32"):
        merge(base, [expert, expert], config=MergeConfig(method="task_arithmetic"))
