"""Checkpoints and configs that would compute something else, or take memory that nobody has."""

import dataclasses
import json
import os
import resource
import stat
import time
from pathlib import Path

import pytest
import torch
from longcat_moe import LongcatConfig, LongcatForCausalLM, SparseAttention
from safetensors.torch import load_file, save_file


def _edit(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def _rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, {"format": "pt"})


def _cast(key, dtype):
    def change(tensors):
        tensors[key] = tensors[key].to(dtype)

    return lambda folder: _rewrite(folder, change)


def _add(**new):
    return lambda folder: _rewrite(folder, lambda tensors: tensors.update(new))


def _one_layer_too_few(folder):
    _edit(folder, num_layers=1, num_hidden_layers=2)


def _int8(folder):
    def change(tensors):
        weight = tensors["lm_head.weight"]
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors["lm_head.weight"] = (weight / scale).round().to(torch.int8)
        tensors["lm_head.weight_scale"] = scale

    _rewrite(folder, change)


def _fp8(dtype, name="scale_inv"):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(dtype)
        tensors[f"lm_head.weight_{name}"] = torch.ones(1, 1)

    return lambda folder: _rewrite(folder, change)


def _index(**entries):
    def damage(folder):
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        names = dict.fromkeys(load_file(folder / "a.safetensors"), "a.safetensors")
        text = json.dumps({"weight_map": {**names, **entries}})
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


def _index_text(text):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


Q = "model.layers.0.self_attn.0.q_a_proj.weight"
CHECKPOINTS = [
    ("no use", _one_layer_too_few),
    ("no use", _add(extra=torch.ones(2))),
    ("no use", _add(**{"model.layers.0.self_attn.0.q_a_proj.bias": torch.ones(24)})),
    ("no use", _add(**{"model.layers.5.input_layernorm.0.weight": torch.ones(48)})),
    ("no use", _add(**{"model.layers.0.mlp.experts.12.gate_proj.weight": torch.ones(16, 48)})),
    ("no use", _add(**{"model.embed_tokens.weight_scale_inv": torch.ones(1, 1)})),
    ("no use", lambda f: _edit(f, n_routed_experts=4, zero_expert_num=8)),
    ("must hold", lambda f: _rewrite(f, lambda t: t.pop(Q))),
    ("must hold", lambda f: _edit(f, num_layers=3, num_hidden_layers=6)),
    ("asks for shape", _add(**{Q: torch.ones(48, 24)})),
    ("asks for shape", lambda f: _edit(f, hidden_size=96)),
    ("floating point", _int8),
    ("floating point", _cast("lm_head.weight", torch.int8)),
    ("floating point", _cast("lm_head.weight", torch.bool)),
    ("floating point", _cast("model.norm.weight", torch.int64)),
    ("floating point", _fp8(torch.float8_e5m2)),
    ("need lm_head.weight_scale_inv", _fp8(torch.float8_e4m3fn, "scale")),
    ("FP8 scales", _add(**{"lm_head.weight": torch.ones(96, 48).to(torch.float8_e4m3fn),
                           "lm_head.weight_scale_inv": torch.ones(2, 2)})),
    ("beside it", _index(**{Q: "../../x.safetensors"})),
    ("beside it", _index(**{Q: "/etc/x.safetensors"})),
    ("beside it", _index(**{Q: "sub/x.safetensors"})),
    ("beside it", _index(**{Q: "..\u002fx.safetensors"})),
    ("beside it", _index(**{Q: 5})),
    ("beside it", _index(**{Q: None})),
    ("beside it", _index(**{Q: "config.json"})),
    ("beside it", _index(**{Q: ""})),
    ("beside it", _index(**{Q: "a\x00.safetensors"})),
    ("beside it", _index(**{Q: "\ud800.safetensors"})),
    ("beside it", _index(**{Q: "a" * 5000 + ".safetensors"})),
    ("as the index says", _index(more="a.safetensors")),
    ("is missing", _index(**{Q: "b.safetensors"})),
    ("must hold an object", _index_text("[]")),
    ("weight_map", _index_text('{"weight_map": []}')),
    ("weight_map", _index_text('{"weight_map": {}}')),
    ("weight_map", _index_text("{}")),
    ("must be JSON", _index_text("{")),
    ("must be JSON", _index_text("[" * 100_000)),
    ("must hold an object", lambda f: (f / "config.json").write_text("[]")),
    ("must hold an object", lambda f: (f / "config.json").write_text("5")),
    ("must be JSON", lambda f: (f / "config.json").write_text("[" * 100_000)),
    ("must be JSON", lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "damage"), CHECKPOINTS)
def test_what_would_compute_something_else_is_one_error(model, tmp_path, words, damage):
    folder = tmp_path / "inner" / "model"
    model.save_pretrained(folder)
    save_file({Q: torch.ones(24, 48)}, tmp_path / "x.safetensors")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        LongcatForCausalLM.from_pretrained(folder)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "key", ["model.layers.0.self_attn.0.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
)
def test_what_follows_from_the_config_may_be_there(model, tmp_path, key):
    model.save_pretrained(tmp_path)
    _add(**{key: torch.ones(4)})(tmp_path)
    LongcatForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_floating_point_is_read(model, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    _rewrite(tmp_path, lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    loaded = LongcatForCausalLM.from_pretrained(tmp_path)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(loaded.get_parameter(name), weight.to(dtype).float())


CONFIGS = [
    ("not known: oe_", {"oe_vocab_size_ratio": 100.567, "oe_neighbor_num": 5, "oe_split_num": 4}),
    ("not known", {"moe_impl": "mix"}),
    ("not known", {"ngram_fix_normalize_factor": True}),
    ("not known", {"index_topk": 2048}),
    ("not known", {"my_new_idea": 1}),
    ("quantization_config", {"quantization_config": {"quant_method": "awq", "bits": 4}}),
    ("quantization_config", {"quantization_config": {"quant_method": "fp8"}}),
    ("quantization_config", {"quantization_config": "fp8"}),
    ("quantization_config", {"quantization_config": {"quant_method": "fp8",
    "weight_block_size": [64, 64]}}),
    ("rope_type", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    ("rope_type", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}),
    ("those of YaRN", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0,
    "llama_4_scaling_beta": 1}}),
    ("must be an object", {"rope_scaling": "yarn"}),
    ("tie_word_embeddings", {"tie_word_embeddings": True}),
    ("attention_bias", {"attention_bias": True}),
    ("norm_topk_prob", {"norm_topk_prob": True}),
    ("zero_expert_type", {"zero_expert_type": "copy"}),
    ("hidden_act", {"hidden_act": "gelu"}),
    ("router_dtype", {"router_dtype": "bfloat16"}),
    ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    ("num_key_value_heads", {"num_key_value_heads": 1}),
    ("qk_head_dim", {"qk_head_dim": 5}),
    ("num_experts_per_tok", {"num_experts_per_tok": 3}),
    ("num_hidden_layers", {"num_hidden_layers": 7}),
    ("num_hidden_layers", {"num_hidden_layers": "4"}),
    ("num_layers must be at most", {"num_layers": 100_000, "num_hidden_layers": 200_000}),
    ("vocab_size must be at most", {"vocab_size": 10**12}),
    ("vocab_size must be a whole number", {"vocab_size": 1e12}),
    ("hidden_size must be a whole number", {"hidden_size": 48.0}),
    ("hidden_size must be a whole number", {"hidden_size": "48"}),
    ("hidden_size must be a whole number", {"hidden_size": True}),
    ("hidden_size must be a whole number", {"hidden_size": [48]}),
    ("hidden_size must be positive", {"hidden_size": 0}),
    ("moe_topk must be positive", {"moe_topk": -1}),
    ("moe_topk=13", {"moe_topk": 13}),
    ("must be even", {"qk_rope_head_dim": 7, "qk_head_dim": ..., "head_dim": ...}),
    ("rms_norm_eps must be a number", {"rms_norm_eps": "1e-5"}),
    ("rms_norm_eps must be a number", {"rms_norm_eps": float("nan")}),
    ("routed_scaling_factor must be a number", {"routed_scaling_factor": float("inf")}),
    ("eos_token_id", {"eos_token_id": [2, 3]}),
    ("eos_token_id", {"eos_token_id": 10**30}),
    ("num_layers must be a whole number", {"num_layers": {}}),
    ("num_layers must be a whole number", {"num_layers": [2]}),
    ("rope_theta must be above 1", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
    "rope_theta": 1}, "rope_theta": 1}),
    ("rope_theta=5 must be that of rope_parameters, 10000", {"rope_theta": 5}),
    ("emb_amplify must be true or false", {"emb_amplify": 3}),
    ("emb_amplify needs n-gram", {"emb_amplify": True}),
    ("attention_dropout must be 0", {"attention_dropout": 0.1}),
    ("head_dim must be 8", {"head_dim": 16}),
    ("'yarn' where factor is told", {"rope_scaling": {"factor": 4.0}}),
    ("'yarn' where factor, mscale is told", {"rope_scaling": {"type": "yarn",
    "rope_type": "default", "factor": 2, "mscale": 1.0, "beta_fast": None}}),
    ("norm must be one of", {"norm": "other"}),
    ("norm must be one of", {"norm": 5}),
    ("model_type", {"model_type": ["longcat_flash"]}),
    ("streaming_sparse_attention", {"streaming_sparse_attention": {}}),
    ("streaming_sparse_attention", {"streaming_sparse_attention": [1]}),
    ("streaming_sparse_attention", {"streaming_sparse_attention": {"layer_type": "0101",
    "stride": 4}}),
    ("block_size", {"streaming_sparse_attention": {"layer_type": "0101", "block_size": 0}}),
    ("layer_type must have a digit", {"streaming_sparse_attention": {"layer_type": "01"}}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "change"), CONFIGS)
def test_a_config_that_is_not_understood_is_one_error(model, tmp_path, words, change):
    model.save_pretrained(tmp_path)
    _edit(tmp_path, **change)
    began = time.process_time()
    with pytest.raises(ValueError, match=words):
        LongcatForCausalLM.from_pretrained(tmp_path)
    assert time.process_time() - began < 5


def test_keys_that_change_nothing_are_no_matter(model, tmp_path):
    model.save_pretrained(tmp_path)
    _edit(
        tmp_path, _name_or_path="x", transformers_version="4.56.0", torch_dtype="bfloat16",
        use_cache=True, pad_token_id=0, attention_dropout=0.0, auto_map={"AutoConfig": "x.Y"},
        num_key_value_heads=3, qk_head_dim=16, num_experts_per_tok=4, intermediate_size=64,
        unknown=None,
    )  # fmt: skip
    assert LongcatForCausalLM.from_pretrained(tmp_path).config == model.config


def test_a_config_of_transformers_alone_has_the_layers_it_says(config):
    values = config.to_dict()
    del values["num_layers"]
    assert LongcatConfig.from_dict(values).num_layers == 2


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' /proc")
def test_sizes_are_compared_before_memory_is_taken(config, tmp_path):
    """A config that asks for 64 GB of a file that holds less is refused under a limit of 8 GB."""
    LongcatForCausalLM(config).save_pretrained(tmp_path)
    _edit(tmp_path, vocab_size=1 << 26, hidden_size=240, q_lora_rank=24)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_used() + (8 << 30), before[1]))
    try:
        with pytest.raises(ValueError, match="asks for shape"):
            LongcatForCausalLM.from_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _used():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_user_s_umask(model, tmp_path, mask):
    before = os.umask(mask)
    try:
        model.save_pretrained(tmp_path / "x", max_shard_bytes=20_000)
    finally:
        os.umask(before)
    files = list((tmp_path / "x").iterdir())
    assert len(files) > 4
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path.name


def test_the_saved_config_says_the_dtype(model, tmp_path):
    model.bfloat16().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        ({"hidden_size": 33}, torch.float32),
        ({"hidden_size": 66}, torch.float32),
        ({"expert_ffn_hidden_size": 1}, torch.float32),
        ({"expert_ffn_hidden_size": 4}, torch.bfloat16),
        ({"hidden_size": 44, "expert_ffn_hidden_size": 3}, torch.bfloat16),
        ({"v_head_dim": 3, "qk_nope_head_dim": 5, "qk_rope_head_dim": 2, "kv_lora_rank": 7,
        "q_lora_rank": 9},
         torch.float32),
    ],
)  # fmt: skip
def test_odd_sizes_run_forwards_and_backwards(config, change, dtype):
    """Against a loop over experts, outputs and gradients."""
    torch.manual_seed(0)
    model = LongcatForCausalLM(dataclasses.replace(config, **change)).to(dtype)
    logits = model(torch.tensor([[3, 4, 5, 6, 7]])).logits
    logits.float().logsumexp(-1).sum().backward()
    assert logits.isfinite().all()
    experts = model.model.layers[0].mlp.experts
    assert experts.down_proj.grad.abs().sum() > 0
    x, nums = (
        torch.randn(9, experts.down_proj.shape[1]).to(dtype),
        torch.tensor([3, 0, 1, 5, 0, 0, 0, 0]),
    )
    weights = (experts.gate_up_proj, experts.down_proj)
    found = []
    for way in (lambda x: experts._grouped_ffn(x, nums), lambda x: _loop(x, *weights, nums)):
        own = x.clone().requires_grad_()
        y = way(own)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), [own, *weights])])
    for got, expected in zip(*found, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 3e-2
        scale = expected.abs().max().float()
        assert (got - expected).abs().max() <= tolerance * scale


def _loop(x, gate_up, down, nums):
    parts = []
    for expert, rows in enumerate(x.split(nums.tolist())):
        gate, up = (rows @ gate_up[expert].T).chunk(2, dim=-1)
        parts.append((torch.nn.functional.silu(gate) * up) @ down[expert].T)
    return torch.cat(parts)


def test_sparse_attention_is_read_as_it_is_written():
    sparse = SparseAttention(layer_type="0101")
    assert SparseAttention.from_dict(sparse.to_dict()) == sparse
