"""LoRA, tied heads, longer vocabularies: by value, never by accident."""

import json

import pytest
import torch
from longcat_fusion import Linear, MergeConfig, Rule, TaskArithmetic, merge_folders
from safetensors.torch import save_file

SUM = MergeConfig(method=TaskArithmetic())
E4M3 = torch.float8_e4m3fn


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
    make.near(merged[f"{_Q}.weight"].double(), wanted, rtol=0, atol=2e-7)
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
    make.near(merged["h.0.c_attn.weight"], 2 * (up @ down).T, **near)
    wanted = model["model.embed_tokens.weight"] + 2 * (table_up @ table_down).T
    make.near(merged["model.embed_tokens.weight"], wanted, **near)
    make.near(merged["lm_head.weight"], head, **near)


def test_lora_meets_a_full_expert_and_an_fp8_base(tmp_path, make):
    base = {f"{_Q}.weight": torch.full((64, 64), 2.0).to(E4M3),
            f"{_Q}.weight_scale_inv": torch.ones(1, 1)}  # fmt: skip
    full = {f"{_Q}.weight": torch.full((64, 64), 2.5, dtype=torch.bfloat16)}
    tensors = {f"{_Q}.lora_A.weight": torch.full((4, 64), 0.25),
               f"{_Q}.lora_B.weight": torch.full((64, 4), 0.5)}  # fmt: skip
    folders = [make.checkpoint(tmp_path / "base", base), make.checkpoint(tmp_path / "x", full),
               _adapter(tmp_path / "lora", tensors)]  # fmt: skip
    merge_folders(folders[0], folders[1:], tmp_path / "out", config=SUM)
    merged = make.read(tmp_path / "out")
    values = merged[f"{_Q}.weight"].double() * merged[f"{_Q}.weight_scale_inv"].double()
    assert values.unique().tolist() == [3.5]


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
        ({}, {}, "must hold lora_A and lora_B tensors, none found"),
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
    make.near(merged["lm_head.weight"], wanted.bfloat16(), rtol=2**-8, atol=1e-5)
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
    rule = Rule(match="model.embed_tokens.weight", action="copy")  # and so its copy
    merge_folders(base, folders, tmp_path / "copied", config=MergeConfig(rules=(rule,)))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(make.read(tmp_path / "copied")[name], model[name])


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
