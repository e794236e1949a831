"""Numbers as they are stored: every code, rounding to the nearest, FP8 with scales by value."""

import json

import numpy as np
import pytest
import torch
from longcat_fusion import Linear, MergeConfig, TaskArithmetic, merge, merge_folders
from longcat_fusion._numbers import FLOATS, decode, encode

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
def test_scales_by_tensor_and_by_row(make, scale_shape):
    scales = torch.rand(scale_shape) + 0.5
    rows = scales.reshape(-1, 1) if scales.numel() == 6 else scales.reshape(1, 1)
    base = {"w.weight": torch.ones(6, 10).to(E4M3), "w.weight_scale": torch.ones(scale_shape)}
    expert = {"w.weight": torch.full((6, 10), 3.0).to(E4M3), "w.weight_scale": scales}
    merged = merge(base, [expert], config=SUM)
    got = merged["w.weight"].float() * merged["w.weight_scale"].reshape(rows.shape)
    make.near(got, (3.0 * rows).expand(6, 10), rtol=1e-6, atol=0)


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


@pytest.mark.parametrize("name", ["w.scale", "w.scale_weight", "w.weight_scale", "w.scale_inv"])
def test_scales_are_known_by_other_names_too(name):
    def model(value, scale):
        weight = torch.full((4, 8), float(value)).to(E4M3)
        return {"w.weight": weight, name: torch.full((1, 1), float(scale))}

    merged = merge(model(1, 2), [model(1, 2), model(2, 1)], config=MEAN)
    assert (merged["w.weight"].float() * merged[name] == 2.0).all()


@pytest.mark.parametrize("name", ["w.weight.scale", "w.weight_block_scale", "w.qscale"])
def test_scales_of_an_unknown_name_are_refused(name):
    model = {"w.weight": torch.ones(4, 8).to(E4M3), name: torch.ones(1, 1)}
    with pytest.raises(ValueError, match=f"{name} must be called .* to be the scales of w.weight"):
        merge(model, [model], config=MEAN)
    model = {"w.weight": torch.ones(4, 8).to(E4M3), "w.input_scale": torch.ones(1)}
    assert merge(model, [model], config=MEAN).keys() == model.keys()  # of activations


def test_scales_of_another_kind_are_refused():
    scale = torch.ones(1, 1).to(torch.int32)
    model = {"w.weight": torch.ones(4, 8).to(E4M3), "w.scale": scale}
    with pytest.raises(ValueError, match=r"w.scale must be .* to be scales, is I32"):
        merge(model, [model], config=MEAN)
