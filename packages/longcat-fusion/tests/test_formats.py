"""FP8 with scales, LoRA, tied heads, longer vocabularies, rounding: by value, never by accident."""

import json
import math

import numpy as np
import pytest
import torch
from longcat_fusion import Gradient, Linear, MergeConfig, Rule, TaskArithmetic, merge, merge_folders
from longcat_fusion._masks import key_of, random_words
from longcat_fusion._numbers import FLOATS, decode, encode
from safetensors.torch import save_file

PLAIN = MergeConfig(normalise=False, drop=0.0, erase=False)
MEAN = MergeConfig(method=Linear())
SUM = MergeConfig(method=TaskArithmetic())
E4M3 = torch.float8_e4m3fn
TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": E4M3, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [d for d in FLOATS if d != "F64"])
def test_every_code_is_decoded_as_torch_does(dtype):
    codes = np.arange(2**16, dtype=np.uint16 if "8" not in dtype else np.uint8)
    if "8" in dtype:
        codes = np.arange(256, dtype=np.uint8)
    elif dtype == "F32":
        codes = (np.arange(2**16, dtype=np.uint32) << 16) + 12345
    raw = codes.view(np.uint8)
    wanted = torch.from_numpy(raw.copy()).view(TORCH[dtype]).float().numpy()
    np.testing.assert_array_equal(decode(raw, dtype), wanted)


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_rounded_to_the_nearest_as_torch_does(rng, dtype):
    values = np.concatenate(
        [
            rng.standard_normal(20_000),
            rng.standard_normal(20_000) * 10.0 ** rng.uniform(-9, 2, 20_000),
            # exact ties between neighbours of the smallest formats, and their largest values
            np.arange(-512, 512) / 1024, np.arange(-512, 512) / 16, np.arange(0, 64) * 2.0**-18,
            [0.0, -0.0, 448, -448, 440, 416],
        ]
    ).astype(np.float32)  # fmt: skip
    values = np.clip(values, -448, 448)
    wanted = torch.from_numpy(values).to(TORCH[dtype]).view(torch.uint8).numpy()
    np.testing.assert_array_equal(encode(values, dtype), wanted)


def test_fp8_saturates_instead_of_becoming_not_a_number():
    for dtype, largest in (("F8_E4M3", 448.0), ("F8_E5M2", 57344.0)):
        raw = encode(np.array([1e9, -1e9, largest * 1.03], np.float32), dtype)
        assert decode(raw, dtype).tolist() == [largest, -largest, largest]


def _fp8(values, scale):
    return {"w.weight": values.to(E4M3), "w.weight_scale_inv": scale}


@pytest.mark.parametrize("shape", [(4, 4), (128, 128), (256, 384), (130, 257), (300, 64)])
@pytest.mark.parametrize("in_memory", [True, False])
def test_two_experts_that_both_mean_two_make_two(tmp_path, make, shape, in_memory):
    grid = tuple(-(-size // 128) for size in shape)
    ones, twos = torch.ones(shape), torch.full(shape, 2.0)
    base = _fp8(ones, torch.full(grid, 1.0))
    experts = [_fp8(ones, torch.full(grid, 2.0)), _fp8(twos, torch.full(grid, 1.0))]
    if in_memory:
        merged = merge(base, experts, config=MEAN)
    else:
        folders = [make.checkpoint(tmp_path / str(n), t) for n, t in enumerate([base, *experts])]
        merge_folders(folders[0], folders[1:], tmp_path / "out", config=MEAN)
        merged = make.read(tmp_path / "out")
    assert {k: (v.shape, v.dtype) for k, v in merged.items()} == {
        k: (v.shape, v.dtype) for k, v in base.items()
    }
    assert _dequantise(merged, "w.weight").unique().tolist() == [2.0]


def _dequantise(tensors, name, block=(128, 128)):
    """Loop over blocks."""
    values = tensors[name].double()
    scales = tensors[f"{name}_scale_inv"].double()
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = (slice(i * block[0], (i + 1) * block[0]),
                     slice(j * block[1], (j + 1) * block[1]))  # fmt: skip
            values[place] *= scales[i, j]
    return values


def _quantise(values, block=(128, 128)):
    rows, columns = values.shape
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    codes, scales = torch.empty(values.shape), torch.empty(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            place = (slice(i * block[0], (i + 1) * block[0]),
                     slice(j * block[1], (j + 1) * block[1]))  # fmt: skip
            scales[i, j] = values[place].abs().max() / 448
            codes[place] = values[place] / scales[i, j]
    return {"m.weight": codes.to(E4M3), "m.weight_scale_inv": scales}


@pytest.mark.parametrize("block", [None, (64, 32)])
def test_fp8_in_and_out_is_as_near_as_its_format_allows(tmp_path, make, block):
    block_of = block or (128, 128)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(300, 200, generator=generator)
    experts = [base + torch.randn(300, 200, generator=generator) * 0.3 for _ in range(2)]
    stored = [_quantise(values, block_of) for values in (base, *experts)]
    config = {"quantization_config": {"weight_block_size": list(block)}} if block else {}
    folders = [make.checkpoint(tmp_path / str(n), tensors, config=config)
               for n, tensors in enumerate(stored)]  # fmt: skip
    merge_folders(folders[0], folders[1:], tmp_path / "out", config=SUM)
    values = [_dequantise(tensors, "m.weight", block_of) for tensors in stored]
    wanted = values[1] + values[2] - values[0]
    got = _dequantise(make.read(tmp_path / "out"), "m.weight", block_of)
    # e4m3 has 3 bits behind the point: half a step is 1/16 of the value, or 1/2 of the smallest
    error = (got - wanted).abs()
    assert (error <= wanted.abs() / 16 + 2.0**-9 / 448 * 8).all()
    assert error.max() > 0


def test_fp8_blocks_that_no_expert_moved_keep_their_bytes():
    generator = torch.Generator().manual_seed(1)
    stored = _quantise(torch.randn(256, 256, generator=generator))
    codes = stored["m.weight"].float()
    codes[:128, :128] *= 0.3  # a block that uses a third of its range
    stored["m.weight"] = codes.to(E4M3)
    other = {name: tensor.clone() for name, tensor in stored.items()}
    moved = other["m.weight"].float()
    moved[200, 200] = 3.0
    other["m.weight"] = moved.to(E4M3)
    merged = merge(stored, [other], config=SUM)
    same = merged["m.weight"].float() == stored["m.weight"].float()
    assert same[:128].all()
    assert same[:, :128].all()
    assert torch.equal(merged["m.weight_scale_inv"][0], stored["m.weight_scale_inv"][0])
    assert merged["m.weight"].float()[200, 200] == 3.0


def test_updates_lost_in_fp8_are_counted_by_value(tmp_path, make):
    base = _fp8(torch.full((4, 4), 256.0), torch.full((1, 1), 0.5))
    expert = {"w.weight": torch.full((4, 4), 128.0)}
    expert["w.weight"][0, :3] += 1.0  # lost: the step of fp8 is 16 here
    expert["w.weight"][1, :2] += 16.0  # kept
    folders = [make.checkpoint(tmp_path / "b", base), make.checkpoint(tmp_path / "x", expert)]
    manifest = merge_folders(folders[0], folders[1:], tmp_path / "out", config=SUM)
    assert (manifest["updates"]["moved"], manifest["updates"]["lost"]) == (5, 3)


@pytest.mark.parametrize("scale_shape", [(1,), (), (6, 1), (6,), (1, 1)])
def test_scales_by_tensor_and_by_row(scale_shape):
    scales = torch.rand(scale_shape) + 0.5
    rows = scales.reshape(-1, 1) if scales.numel() == 6 else scales.reshape(1, 1)
    base = {"w.weight": torch.ones(6, 10).to(E4M3), "w.weight_scale": torch.ones(scale_shape)}
    expert = {"w.weight": torch.full((6, 10), 3.0).to(E4M3), "w.weight_scale": scales}
    merged = merge(base, [expert], config=SUM)
    got = merged["w.weight"].float() * merged["w.weight_scale"].reshape(rows.shape)
    torch.testing.assert_close(got, (3.0 * rows).expand(6, 10), rtol=1e-6, atol=0)


def test_scales_that_fit_no_blocks_are_refused():
    bad = {"w.weight": torch.ones(256, 256).to(E4M3), "w.weight_scale_inv": torch.ones(3, 1, 1)}
    with pytest.raises(ValueError, match="must hold one scale for each block"):
        merge(bad, [bad])


def test_fp8_base_and_bf16_expert_meet_by_value(tmp_path, make):
    base = _fp8(torch.ones(128, 128), torch.full((1, 1), 0.5))
    expert = {"w.weight": torch.full((128, 128), 2.0, dtype=torch.bfloat16)}
    merged = merge(base, [expert], config=SUM)
    assert _dequantise(merged, "w.weight").unique().tolist() == [2.0]
    # and out as bf16: no scales, no quantization_config
    folder = make.checkpoint(tmp_path / "b", base, config={"quantization_config": {"a": 1}})
    other = make.checkpoint(tmp_path / "x", expert)
    config = MergeConfig(method=TaskArithmetic(), dtype="BF16")
    merge_folders(folder, [other], tmp_path / "out", config=config)
    assert {k: v.dtype for k, v in make.read(tmp_path / "out").items()} == {
        "w.weight": torch.bfloat16
    }
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings == {"torch_dtype": "bfloat16"}


def test_a_scale_that_is_not_finite_is_refused():
    base = _fp8(torch.ones(4, 4), torch.ones(1, 1))
    bad = _fp8(torch.ones(4, 4), torch.full((1, 1), float("nan")))
    with pytest.raises(ValueError, match=r"w\.weight_scale_inv\[0, 0\] of expert 0 is nan"):
        merge(base, [bad], config=SUM)
    codes = torch.ones(4, 4)
    codes[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"w\.weight\[1, 2\] of expert 0 is nan"):
        merge(base, [_fp8(codes, torch.ones(1, 1))], config=SUM)


def _adapter(folder, tensors, **settings):
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


_Q = "model.layers.0.self_attn.q_proj"


def _low_rank(rank=4, out=64, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rank, width, generator=generator),
            torch.randn(out, rank, generator=generator) * 0.01)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({}, 2.0),
        ({"lora_alpha": 4}, 1.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"q_proj": 16}}, 4.0),
        ({"alpha_pattern": {"other": 16, "layers.0.self_attn.q_proj": 12}}, 3.0),
        ({"r": 9, "rank_pattern": {"q_proj": 4}}, 2.0),
    ],
)
def test_lora_is_ba_alpha_over_r(tmp_path, make, settings, scaling):
    model = make.model(dtype=torch.float32)
    base = make.checkpoint(tmp_path / "base", model, shards=2)
    down, up = _low_rank()
    tensors = {f"{_Q}.lora_A.weight": down, f"{_Q}.lora_B.weight": up}
    adapter = _adapter(tmp_path / "lora", tensors, **settings)
    merge_folders(base, [adapter], tmp_path / "out", config=SUM)
    merged = make.read(tmp_path / "out")
    wanted = model[f"{_Q}.weight"].double() + scaling * up.double() @ down.double()
    torch.testing.assert_close(merged[f"{_Q}.weight"].double(), wanted, rtol=0, atol=2e-7)
    for name, tensor in model.items():
        assert name == f"{_Q}.weight" or torch.equal(merged[name], tensor)


def test_lora_on_embeddings_transposed_layers_and_whole_modules(tmp_path, make):
    model = {**make.model(dtype=torch.float32), "h.0.c_attn.weight": torch.zeros(64, 96)}
    base = make.checkpoint(tmp_path / "base", model)
    down, up = _low_rank(out=96)
    turned = _adapter(
        tmp_path / "turned",
        {"h.0.c_attn.lora_A.weight": down, "h.0.c_attn.lora_B.weight": up},
        fan_in_fan_out=True,
    )
    table_down, table_up = _low_rank(out=64, width=96, seed=1)
    head = torch.ones(96, 64)
    table = _adapter(
        tmp_path / "table",
        {
            "model.embed_tokens.lora_embedding_A": table_down,
            "model.embed_tokens.lora_embedding_B": table_up,
            "lm_head.modules_to_save.weight": head,
        },
    )
    merge_folders(base, [turned, table], tmp_path / "out", config=SUM)
    merged = make.read(tmp_path / "out")
    near = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(merged["h.0.c_attn.weight"], 2 * (up @ down).T, **near)
    wanted = model["model.embed_tokens.weight"] + 2 * (table_up @ table_down).T
    torch.testing.assert_close(merged["model.embed_tokens.weight"], wanted, **near)
    torch.testing.assert_close(merged["lm_head.weight"], head, **near)


def test_lora_meets_a_full_expert_and_an_fp8_base(tmp_path, make):
    base = {f"{_Q}.weight": torch.full((64, 64), 2.0).to(E4M3),
            f"{_Q}.weight_scale_inv": torch.ones(1, 1)}  # fmt: skip
    full = {f"{_Q}.weight": torch.full((64, 64), 2.5, dtype=torch.bfloat16)}
    tensors = {f"{_Q}.lora_A.weight": torch.full((4, 64), 0.25),
               f"{_Q}.lora_B.weight": torch.full((64, 4), 0.5)}  # fmt: skip
    folders = [make.checkpoint(tmp_path / "base", base), make.checkpoint(tmp_path / "x", full),
               _adapter(tmp_path / "lora", tensors)]  # fmt: skip
    merge_folders(folders[0], folders[1:], tmp_path / "out", config=SUM)
    assert _dequantise(make.read(tmp_path / "out"), f"{_Q}.weight").unique().tolist() == [3.5]


@pytest.mark.parametrize(
    ("tensors", "settings", "match"),
    [
        ({f"{_Q}.lora_A.weight": torch.ones(4, 64)}, {}, "both lora_A and lora_B"),
        (
            {f"{_Q}.lora_A.weight": torch.ones(4, 63), f"{_Q}.lora_B.weight": torch.ones(64, 4)},
            {}, r"must make the base's \[64, 64\]",
        ),
        (
            {"model.nope.lora_A.weight": torch.ones(4, 64), "model.nope.lora_B.weight":
             torch.ones(64, 4)}, {}, r"nope\.weight must be a tensor of the base",
        ),
        (
            {f"{_Q}.lora_A.weight": torch.ones(4, 64), f"{_Q}.lora_B.weight": torch.ones(64, 4)},
            {"r": 8}, "must have rank 8, has 4",
        ),
        ({}, {"use_dora": True}, "use_dora are not understood"),
        ({}, {"peft_type": "IA3"}, "must be LORA"),
    ],
)  # fmt: skip
def test_adapters_that_do_not_fit_are_refused(tmp_path, make, tensors, settings, match):
    base = make.checkpoint(tmp_path / "base", make.model())
    adapter = _adapter(tmp_path / "lora", tensors, **settings)
    with pytest.raises(ValueError, match=match):
        merge_folders(base, [adapter], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_expert_whose_head_is_tied_has_its_embedding_for_a_head(tmp_path, make):
    model = make.model()
    base = make.checkpoint(tmp_path / "base", model)
    expert = make.moved(model, 0)
    del expert["lm_head.weight"]
    tied = make.checkpoint(tmp_path / "x", expert, config={"tie_word_embeddings": True})
    merge_folders(base, [tied], tmp_path / "out", config=SUM)
    merged = make.read(tmp_path / "out")
    assert torch.equal(merged["lm_head.weight"], expert["model.embed_tokens.weight"])
    (tied / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"differs in lm_head\.weight"):
        merge_folders(base, [tied], tmp_path / "other")


def test_a_head_over_a_tied_base(tmp_path, make):
    model = make.model()
    del model["lm_head.weight"]
    base = make.checkpoint(tmp_path / "base", model, config={"tie_word_embeddings": True})
    expert = make.moved(model, 0)
    other = make.checkpoint(tmp_path / "y", make.moved(model, 1))
    copy = {**expert, "lm_head.weight": expert["model.embed_tokens.weight"].clone()}
    tied = make.checkpoint(tmp_path / "tied", copy)
    manifest = merge_folders(base, [tied, other], tmp_path / "a", config=SUM)
    assert "copy of model.embed_tokens.weight" in manifest["notes"][0]
    assert "lm_head.weight" not in make.read(tmp_path / "a")

    own = {**expert, "lm_head.weight": torch.ones(96, 64, dtype=torch.bfloat16)}
    untied = make.checkpoint(tmp_path / "untied", own)
    with pytest.raises(ValueError, match=r"lm_head\.weight.*head='untie'"):
        merge_folders(base, [untied, other], tmp_path / "b")
    config = MergeConfig(method=Linear(), head="untie")
    merge_folders(base, [untied, other], tmp_path / "b", config=config)
    merged = make.read(tmp_path / "b")
    wanted = (own["lm_head.weight"].float() + make.moved(model, 1)["model.embed_tokens.weight"]) / 2
    torch.testing.assert_close(merged["lm_head.weight"], wanted.bfloat16())
    settings = json.loads((tmp_path / "b" / "config.json").read_text())
    assert settings["tie_word_embeddings"] is False
    config = MergeConfig(method=Linear(), head="drop")
    merge_folders(base, [untied, other], tmp_path / "c", config=config)
    assert "lm_head.weight" not in make.read(tmp_path / "c")


def test_stored_copies_of_a_tied_table_stay_copies(tmp_path, make):
    model = make.model()
    model["lm_head.weight"] = model["model.embed_tokens.weight"].clone()
    tied = {"tie_word_embeddings": True}
    base = make.checkpoint(tmp_path / "base", model, config=tied)
    folders = []
    for number in range(2):
        expert = make.moved(model, number)
        expert["lm_head.weight"] = expert["model.embed_tokens.weight"].clone()
        folders.append(make.checkpoint(tmp_path / f"x{number}", expert, config=tied))
    config = MergeConfig(drop=0.5, protect=(), rounding="stochastic")
    merge_folders(base, folders, tmp_path / "out", config=config)
    merged = make.read(tmp_path / "out")
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert not torch.equal(merged["lm_head.weight"], model["lm_head.weight"])


def _longer(model, rows, value):
    more = dict(model)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        added = torch.full((rows, 64), value, dtype=torch.bfloat16)
        more[name] = torch.cat([model[name], added])
    return more


def test_longer_vocabularies_by_policy(tmp_path, make):
    model = make.model()
    files = {"tokenizer.json": "base"}
    base = make.checkpoint(tmp_path / "base", model, config={"vocab_size": 96}, files=files)
    grown = [_longer(make.moved(model, n), 4, value) for n, value in enumerate((2.0, 4.0))]
    more = {"tokenizer.json": "more"}
    folders = [make.checkpoint(tmp_path / f"x{n}", t, files=more) for n, t in enumerate(grown)]
    folders.append(make.checkpoint(tmp_path / "y", make.moved(model, 2), files=files))
    with pytest.raises(ValueError, match=r"\(96, 64\).*x0.*\(100, 64\); vocabulary='base'"):
        merge_folders(base, folders, tmp_path / "a")

    config = MergeConfig(method=Linear(), vocabulary="base")
    merge_folders(base, folders, tmp_path / "b", config=config)
    kept = make.read(tmp_path / "b")
    assert kept["lm_head.weight"].shape == (96, 64)
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "base"

    for name, method in (("c", Linear()), ("d", TaskArithmetic())):
        config = MergeConfig(method=method, vocabulary="longest")
        merge_folders(base, folders, tmp_path / name, config=config)
        merged = make.read(tmp_path / name)
        for table in ("model.embed_tokens.weight", "lm_head.weight"):
            assert merged[table].shape == (100, 64)
            # the mean of the two that have the row, whatever the third one weighs
            assert merged[table][96:].unique().tolist() == [3.0]
        settings = json.loads((tmp_path / name / "config.json").read_text())
        assert settings["vocab_size"] == 100
        assert (tmp_path / name / "tokenizer.json").read_text() == "more"
    assert torch.equal(make.read(tmp_path / "c")["lm_head.weight"][:96], kept["lm_head.weight"])

    (folders[0] / "tokenizer.json").write_text("other")
    with pytest.raises(ValueError, match="must have the same tokenizer"):
        merge_folders(base, folders, tmp_path / "e", config=config)


def test_a_shorter_vocabulary_leaves_the_bases_rows(tmp_path, make):
    model = make.model()
    base = make.checkpoint(tmp_path / "base", model)
    short = dict(model)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        short[name] = model[name][:90] + 1
    folder = make.checkpoint(tmp_path / "x", short)
    config = MergeConfig(method=TaskArithmetic(), vocabulary="longest")
    merge_folders(base, [folder], tmp_path / "out", config=config)
    merged = make.read(tmp_path / "out")["lm_head.weight"]
    assert torch.equal(merged[90:], model["lm_head.weight"][90:])
    assert torch.equal(merged[:90], short["lm_head.weight"])


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
    torch.testing.assert_close(merged[name], 2 * expert[name] - model[name])
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(merged[name], expert[name])
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
         "model.layers.0.mlp.router.classifier.weight", "model.layers.0.self_attn.1.kv_b_proj.weight",
         "model.mtp.layers.0.embed_norm.weight", "model.ngram_embeddings.embedders.0.weight"],
        ["model.layers.3.mlp.experts.{}.gate_proj.weight", "model.layers.61.eh_proj.weight",
         "model.layers.3.mlp.gate.weight", "model.layers.3.mlp.shared_experts.up_proj.weight"],
    ):  # fmt: skip
        model = {name.format(e): torch.randn(8, 8) for name in names for e in range(3)}
        merged = merge(model, [make.moved(model, 0), make.moved(model, 1)])
        assert list(merged) == list(model)
