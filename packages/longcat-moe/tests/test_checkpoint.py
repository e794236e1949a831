"""Checkpoints: shards, FP8, memory, and what is said when one is broken."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from longcat_moe import LongcatForCausalLM
from longcat_moe._mapped import map_safetensors
from longcat_moe._shards import from_fp8
from safetensors.torch import load, load_file, save, save_file

IDS = torch.tensor([[5, 6, 7, 8]])


def _same(left, right):
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_shards_and_their_index_load_again(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_bytes=20_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 5
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    on_disk = {key: path.name for path in shards for key in load_file(path)}
    assert index["weight_map"] == on_disk
    assert _same(LongcatForCausalLM.from_pretrained(tmp_path), model)
    model.save_pretrained(tmp_path)  # one file again: the old index must not be followed
    assert not (tmp_path / "model.safetensors.index.json").exists()


def test_our_shards_load_in_transformers(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    model.save_pretrained(tmp_path, max_shard_bytes=40_000, for_transformers=True)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = LongcatForCausalLM.from_pretrained(tmp_path).eval()
    assert _same(ours, model)
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(IDS).logits, ours(IDS).logits, atol=1e-5)
    model.save_pretrained(tmp_path / "plain", for_transformers=False)
    with pytest.raises(RuntimeError):  # when this loads one day, the option can go
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")


def test_fp8_weights_are_their_numbers_times_their_block_s_scale():
    torch.manual_seed(0)
    weight = torch.randn(200, 300).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3) + 0.5
    got = from_fp8(weight, scale)
    for i in range(0, 200, 37):
        for j in range(0, 300, 41):
            assert got[i, j] == weight[i, j].float() * scale[i // 128, j // 128]
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 2\)"):
        from_fp8(weight, scale.T)


def test_an_fp8_checkpoint_is_read_close_to_what_was_written(model, tmp_path):
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for key in [key for key in state if key.endswith("_proj.weight")]:
        weight = state.pop(key)
        scale = weight.abs().max() / 448
        state[key] = (weight / scale).to(torch.float8_e4m3fn)
        blocks = [-(-size // 128) for size in weight.shape]
        state[f"{key}_scale_inv"] = torch.full(blocks, float(scale))
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    read = LongcatForCausalLM.from_pretrained(tmp_path)
    for (key, ours), theirs in zip(
        read.state_dict().items(), model.state_dict().values(), strict=True
    ):
        far = 2**-4 + 1e-6 if "proj" in key else 0  # three bits of mantissa
        assert (ours - theirs).abs().max() <= far * theirs.abs().max(), key
    del state["model.layers.0.mlps.0.up_proj.weight_scale_inv"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"up_proj\.weight_scale_inv"):
        LongcatForCausalLM.from_pretrained(tmp_path)


def test_a_prediction_head_is_kept_even_if_the_config_is_silent(config, tmp_path):
    model = LongcatForCausalLM(dataclasses.replace(config, num_nextn_predict_layers=1))
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["num_nextn_predict_layers"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    read = LongcatForCausalLM.from_pretrained(tmp_path)
    assert _same(read, model)


def test_the_router_stays_in_float32(model, tmp_path):
    model.save_pretrained(tmp_path)
    read = LongcatForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    router = read.model.layers[0].mlp.router
    assert router.classifier.weight.dtype == router.e_score_correction_bias.dtype == torch.float32
    assert torch.equal(router.classifier.weight, model.model.layers[0].mlp.router.classifier.weight)
    assert read.lm_head.weight.dtype == torch.bfloat16


def test_progress_ends_at_all_bytes(model, tmp_path):
    model.save_pretrained(tmp_path)
    seen = []
    LongcatForCausalLM.from_pretrained(tmp_path, progress=lambda *pair: seen.append(pair))
    done, total = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == total[-1] == sum(t.nbytes for t in model.state_dict().values())


def test_a_shard_cut_short_and_a_shard_that_lacks_a_key_are_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_bytes=100_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model-00002.*whole safetensors"):
        LongcatForCausalLM.from_pretrained(tmp_path)
    lost = load_file(shards[0])
    key = sorted(lost)[0]
    del lost[key]
    save_file(lost, shards[0], {"format": "pt"})
    shards[1].write_bytes(whole)
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        LongcatForCausalLM.from_pretrained(tmp_path)
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match="model-00001"):
        LongcatForCausalLM.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_old_checkpoint(model, tmp_path, monkeypatch):
    from longcat_moe import _checkpoint

    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_checkpoint, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*part"))


_MEASURE = """
import sys, torch
from pathlib import Path
from longcat_moe import LongcatForCausalLM

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

LongcatForCausalLM.from_pretrained(sys.argv[2])  # what is loaded once, is
before = peak()
model = LongcatForCausalLM.from_pretrained(sys.argv[1])
print(peak() - before, sum(t.nbytes for t in model.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_loading_takes_the_model_and_one_shard_at_most(tmp_path):
    from longcat_moe import get_preset

    config = dataclasses.replace(get_preset("mini"), n_routed_experts=16, zero_expert_num=8)
    LongcatForCausalLM(config).save_pretrained(tmp_path, max_shard_bytes=30_000_000)
    largest = max(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    tiny = tmp_path / "tiny"
    LongcatForCausalLM(get_preset("tiny")).save_pretrained(tiny)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, size = map(int, done.stdout.split())
    assert size < grown * 1.1  # it was really read
    assert grown < size + largest + 20_000_000


@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_mapped_bytes_are_what_the_library_reads(model, wrap):
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state |= {
        "half": torch.randn(3, 5).bfloat16(),
        "none": torch.empty(0, 4),
        "one": torch.tensor(7),
    }
    data = save(state)
    found = map_safetensors(wrap(data))
    assert found.keys() == state.keys()
    for key, value in load(data).items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)
    with pytest.raises(ValueError, match="must be safetensors bytes"):
        map_safetensors(b"\xff" * 40)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [True]}, {"shape": [1.0]}, {"shape": "1"}, {"shape": [10**30, 0]},
        {"data_offsets": [0, "4"]}, {"data_offsets": [0, float("inf")]}, {"data_offsets": [0]},
        {"shape": [-1]}, {"dtype": ["F32"]}, {"shape": None},
    ],
)  # fmt: skip
def test_sizes_in_bytes_that_are_none_are_one_error(entry):
    whole = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}
    header = json.dumps({"a": whole}).encode()
    with pytest.raises(ValueError, match="weights must be safetensors bytes"):
        map_safetensors(len(header).to_bytes(8, "little") + header + b"abcd")
