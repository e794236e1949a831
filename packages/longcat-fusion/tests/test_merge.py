"""The merge against hand figures, its limits, and whole folders."""

import pytest
import torch
from longcat_fusion import MergeConfig, merge, merge_folders, merge_tensor
from safetensors.torch import load_file, save_file

PLAIN = MergeConfig(normalise=False, drop=0.0, erase=False)


def _t(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_one_expert_alone_comes_back(make):
    base, expert = torch.randn(5, 7), torch.randn(5, 7)
    got = merge_tensor(base, [expert], config=MergeConfig(drop=0.0))
    make.near(got, expert)


def test_each_step_against_hand_figures(make):
    base = _t(0, 0, 0, 0)
    experts = [_t(3, 4, 0, 0), _t(-6, 0, 8, 0)]
    sums = merge_tensor(base, experts, config=PLAIN)
    assert sums.tolist() == [-3, 4, 8, 0]
    erased = merge_tensor(base, experts, config=MergeConfig(normalise=False, drop=0.0))
    assert erased.tolist() == [-6, 4, 8, 0]
    # norms 5 and 10 become 7.5 each
    evened = merge_tensor(base, experts, config=MergeConfig(drop=0.0, erase=False))
    make.near(evened, _t(4.5 - 4.5, 6, 6, 0))
    halved = MergeConfig(normalise=False, drop=0.0, erase=False, weights=(0.5, 0.5))
    assert merge_tensor(base, experts, config=halved).tolist() == [-1.5, 2, 4, 0]


def test_dropping_keeps_the_mean_and_the_stated_share():
    base, expert = torch.zeros(200_000), torch.ones(200_000)
    config = MergeConfig(drop=0.4)
    got = merge_tensor(base, [expert], config=config, name="w")
    assert abs((got == 0).float().mean() - 0.4) < 0.01
    assert abs(got.mean() - 1) < 0.01
    assert torch.equal(got, merge_tensor(base, [expert], config=config, name="w"))
    assert not torch.equal(got, merge_tensor(base, [expert], config=config, name="v"))


def test_names_shapes_and_dtypes_are_the_bases_or_it_is_an_error():
    base = {"a": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor([3])}
    same = {"a": torch.zeros(2, dtype=torch.bfloat16), "n": torch.tensor([3])}
    merged = merge(base, [same])
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        k: (v.shape, v.dtype) for k, v in base.items()
    }
    with pytest.raises(ValueError, match="differs in n"):
        merge(base, [{"a": base["a"]}])
    with pytest.raises(ValueError, match="must have the base's shape"):
        merge(base, [{"a": torch.ones(3), "n": torch.tensor([3])}])
    with pytest.raises(ValueError, match="must be equal"):
        merge(base, [{**same, "n": torch.tensor([4])}])


def test_folders_keep_shards_and_other_files(tmp_path):
    for place, folder in enumerate(("base", "x", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
        save_file({"a": torch.full((2,), float(place))}, tmp_path / folder / "m-1.safetensors")
        save_file({"b": torch.full((3,), float(place))}, tmp_path / folder / "m-2.safetensors")
    experts = [tmp_path / "x", tmp_path / "y"]
    merge_folders(tmp_path / "base", experts, tmp_path / "out", config=PLAIN)
    assert load_file(tmp_path / "out" / "m-1.safetensors")["a"].tolist() == [3, 3]
    assert load_file(tmp_path / "out" / "m-2.safetensors")["b"].tolist() == [3, 3, 3]
    assert (tmp_path / "out" / "config.json").read_text() == "{}"
    with pytest.raises(FileNotFoundError, match="none in"):
        merge_folders(tmp_path, experts, tmp_path / "out")
