"""Nothing is destroyed and nothing is merged that does not fit."""

import itertools
import json

import longcat_fusion._folders as folders
import pytest
import torch
from longcat_fusion import Linear, MergeConfig, Rule, merge_folders, plan_merge
from safetensors.torch import save_file

PLAIN = MergeConfig(normalise=False, drop=0.0, erase=False)


def _untouched(make, folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("way", ["same", "link", "dots", "expert", "parent", "linked_expert"])
def test_the_output_differs_from_every_input_by_whatever_way(tmp_path, make, way):
    base, one, two = make.three(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(base)
    (tmp_path / "to_expert").symlink_to(one)
    out = {
        "same": base, "link": link, "dots": tmp_path / "x0" / ".." / "base", "expert": one,
        "parent": tmp_path, "linked_expert": tmp_path / "to_expert",
    }[way]  # fmt: skip
    before = [_untouched(make, folder) for folder in (base, one, two)]
    with pytest.raises(ValueError, match="must differ from every input"):
        merge_folders(base, [one, two], out)
    assert [_untouched(make, folder) for folder in (base, one, two)] == before


def test_a_link_to_nothing_and_one_path_for_a_list_are_told(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must be a folder, .*dangling is a link to nothing"):
        merge_folders(base, [one], tmp_path / "dangling")
    for experts in (one, str(one)):
        with pytest.raises(ValueError, match="experts must be a list of folders, got the one path"):
            merge_folders(base, experts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "tensors"),
    [
        ("gptq", {"w.qweight": torch.ones(4, 4, dtype=torch.int32), "w.scales": torch.ones(4)}),
        ("bitsandbytes", {"w.weight": torch.ones(4, 4, dtype=torch.int8), "w.SCB": torch.ones(4)}),
        ("mxfp4", {"w_blocks": torch.ones(4, 16, dtype=torch.uint8),
                   "w_scales": torch.ones(4, dtype=torch.uint8)}),
    ],
)  # fmt: skip
def test_weights_packed_as_integers_are_refused_though_they_are_equal(tmp_path, method, tensors):
    folders = [tmp_path / name for name in ("base", "expert")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        scaled = {k: v * (1 + number) if v.is_floating_point() else v for k, v in tensors.items()}
        save_file(scaled, folder / "model.safetensors")
        config = {"quantization_config": {"quant_method": method}}
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"is packed as .* by {method}; only FP8 is unpacked"):
        merge_folders(folders[0], folders[1:], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_something_is_refused_and_left_alone(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be empty.*old\.safetensors"):
        merge_folders(base, [one], out)
    assert [path.name for path in out.iterdir()] == ["old.safetensors"]


def test_only_understood_files_come_along(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    for name in ("pytorch_model.bin", "model.gguf", "tokenizer.json", "chat_template.jinja",
                 "notes.txt", "modeling_longcat.py", "training_args.bin"):  # fmt: skip
        (base / name).write_text(name)
    (base / "original").mkdir()
    merge_folders(base, [one], tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {
        "model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja",
        "modeling_longcat.py", "README.md", "merge.json",
    }  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert manifest["left_out"] == [
        "model.gguf", "notes.txt", "original/", "pytorch_model.bin", "training_args.bin",
    ]  # fmt: skip


def _break_index(folder, change):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


@pytest.mark.parametrize("broken", ["base", "x0"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda homes: homes.update(z="model-00009-of-00009.safetensors"), "00009-of-00009"),
        (lambda homes: homes.update(z="model-00001-of-00002.safetensors"), "agree on z"),
        (lambda homes: homes.pop("model.norm.weight"), r"agree on model\.norm\.weight"),
        (lambda homes: homes.update(z="../x1/model-00001-of-00002.safetensors"), "names"),
        (
            lambda homes: homes.update({"model.norm.weight": "model-00001-of-00002.safetensors"}),
            r"agree on model\.norm\.weight",
        ),
    ],
)
def test_index_and_shards_agree(tmp_path, make, broken, change, match):
    base, one, two = make.three(tmp_path, shards=2)
    homes = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert homes["model.norm.weight"] == "model-00002-of-00002.safetensors"
    _break_index(tmp_path / broken, change)
    with pytest.raises(ValueError, match=match):
        merge_folders(base, [one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_beside_the_index_and_names_in_two_shards_are_refused(tmp_path, make):
    base, one, _ = make.three(tmp_path, shards=2)
    save_file({"z": torch.ones(2)}, one / "more.safetensors")
    with pytest.raises(ValueError, match=r"more\.safetensors is not in the index"):
        plan_merge(base, [one], tmp_path / "out")
    (one / "model.safetensors.index.json").unlink()
    save_file({"model.norm.weight": torch.ones(2)}, one / "more.safetensors")
    with pytest.raises(ValueError, match=r"model\.norm\.weight must lie in one shard"):
        plan_merge(base, [one], tmp_path / "out")


def test_shards_that_are_numbered_are_all_there_without_an_index_too(tmp_path, make):
    base, one, _ = make.three(tmp_path, shards=3)
    (one / "model.safetensors.index.json").unlink()
    plan_merge(base, [one], tmp_path / "out")
    (one / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must have all shards of .*, has 2 and no index"):
        plan_merge(base, [one], tmp_path / "out")


def test_other_safetensors_beside_the_model_are_left_out_and_named(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    for folder in (base, one):
        save_file({"exp_avg": torch.ones(2)}, folder / "optimizer.safetensors")
    manifest = merge_folders(base, [one], tmp_path / "out")
    assert manifest["left_out"] == ["optimizer.safetensors"]
    assert "exp_avg" not in make.read(tmp_path / "out")


def test_a_base_that_is_an_adapter_is_refused(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="base must be a whole checkpoint"):
        plan_merge(base, [one], tmp_path / "out")


def test_experts_of_other_dtypes_are_merged_by_value_and_named(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    wide = {name: tensor.float() for name, tensor in make.read(one).items()}
    other = make.checkpoint(tmp_path / "wide", wide)
    plan = plan_merge(base, [one, other], tmp_path / "out", config=PLAIN)
    assert [note.split(": ")[1] for note in plan.notes] == [
        "15 tensors are F32 where the base has BF16"
    ]
    merge_folders(base, [other], tmp_path / "a", config=PLAIN)
    merge_folders(base, [one], tmp_path / "b", config=PLAIN)
    assert make.bytes_of(tmp_path / "a") == make.bytes_of(tmp_path / "b")


def _change(file, change):
    data = bytearray(file.read_bytes())
    file.write_bytes(bytes(change(data)))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:5],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b"BF16", b"BF17"),
        lambda data: data.replace(b'"shape":[64]', b'"shape":[65]', 1),
        lambda data: data.replace(b'"shape":[64]', b'"shape":[-4]', 1),
        lambda data: data.replace(b"lm_head.weight", b"model.norm.w8t"),
        lambda data: data[:8] + b"[" + data[9:],
    ],
)
def test_a_file_that_is_not_whole_is_refused_and_named(tmp_path, make, change):
    base, one, _ = make.three(tmp_path)
    _change(one / "model.safetensors", change)
    with pytest.raises(ValueError, match=r"x0.*(whole safetensors file|differs in)"):
        plan_merge(base, [one], tmp_path / "out")


def test_a_wrong_shape_in_the_last_shard_is_found_before_anything_is_written(tmp_path, make):
    base, one, _ = make.three(tmp_path, shards=3)
    tensors = make.read(one)
    tensors["model.layers.1.self_attn.q_proj.weight"] = torch.zeros(64, 65, dtype=torch.bfloat16)
    make.checkpoint(one, tensors, shards=3)
    with pytest.raises(ValueError, match=r"q_proj.*must have the base's shape"):
        merge_folders(base, [one], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_extra_tensors_are_named_unless_a_rule_says_copy(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    tensors = make.read(one)
    del tensors["model.norm.weight"]
    make.checkpoint(one, {**tensors, "more": torch.ones(2)})
    with pytest.raises(ValueError, match=r"differs in model\.norm\.weight, more \(lacks 1"):
        plan_merge(base, [one], tmp_path / "out")
    rules = (Rule(match="model.norm.*", action="copy"),)
    merge_folders(base, [one], tmp_path / "out", config=MergeConfig(rules=rules, extra="leave_out"))
    merged = make.read(tmp_path / "out")
    assert torch.equal(merged["model.norm.weight"], make.read(base)["model.norm.weight"])
    assert "more" not in merged


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("method", [None, "linear", "ties", "breadcrumbs", "karcher"])
def test_a_value_that_is_not_finite_is_refused_and_named(tmp_path, make, value, method):
    base, one, two = make.three(tmp_path)
    tensors = make.read(two)
    tensors["model.layers.1.self_attn.q_proj.weight"][5, 7] = value
    make.checkpoint(two, tensors)
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj\.weight\[5, 7\].*x1.*is "):
        merge_folders(base, [one, two], tmp_path / "out", config=MergeConfig(method=method))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_copied_tensor_may_hold_anything(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    tensors = make.read(base)
    tensors["model.norm.weight"][3] = float("-inf")
    make.checkpoint(base, tensors)
    config = MergeConfig(rules=(Rule(kind="norm", action="copy"),))
    merge_folders(base, [one], tmp_path / "out", config=config)
    assert make.read(tmp_path / "out")["model.norm.weight"][3] == float("-inf")


def test_whole_numbers_must_be_equal_and_are_compared_before_anything_is_written(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    tensors = {**make.read(base), "steps": torch.tensor([3])}
    make.checkpoint(base, tensors)
    make.checkpoint(one, {**make.read(one), "steps": torch.tensor([4])})
    with pytest.raises(ValueError, match="steps: I64 tensors must be equal"):
        merge_folders(base, [one], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make.checkpoint(one, {**make.read(one), "steps": torch.tensor([3])})
    merge_folders(base, [one], tmp_path / "out")
    assert make.read(tmp_path / "out")["steps"].tolist() == [3]


def test_a_full_disk_is_foreseen_and_leaves_nothing(tmp_path, make, monkeypatch):
    base, one, _ = make.three(tmp_path)
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="needs 17 MiB more, 1 are free"):
        merge_folders(base, [one], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_while_writing_leaves_no_part(tmp_path, make, monkeypatch):
    base, one, _ = make.three(tmp_path, shards=3)

    def full(file, view, place):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            merge_folders(base, [one], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.part"))
    merge_folders(base, [one], tmp_path / "out")


def test_plan_writes_nothing_and_foretells_the_merge(tmp_path, make):
    base, one, two = make.three(tmp_path, shards=2)
    plan = plan_merge(base, [one, two], tmp_path / "out", config=MergeConfig(method=Linear()))
    assert not (tmp_path / "out").exists()
    assert plan.num_tensors == len(make.read(base))
    merge_folders(base, [one, two], tmp_path / "out", config=MergeConfig(method=Linear()))
    written = sum(len(data) for data in make.bytes_of(tmp_path / "out").values())
    assert plan.bytes_written == written
    assert plan.bytes_read == sum(
        header[1] - (len(shard.head) if shard else 0)
        for part in (plan.identity["base"], *plan.identity["experts"])
        for header, shard in zip(part, plan.shards, strict=True)
    )
    assert plan.expected_s > 0


def test_progress_counts_bytes_rate_and_time_left(tmp_path, make):
    base, one, _ = make.three(tmp_path, shards=2)
    seen = []
    merge_folders(base, [one], tmp_path / "out", progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert all(a.done_bytes <= b.done_bytes for a, b in itertools.pairwise(seen))
    assert seen[-1].left_s == 0
    assert seen[-1].rate_bytes_s == pytest.approx(seen[-1].total_bytes / seen[-1].elapsed_s)


def test_str_paths_work(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    merge_folders(str(base), [str(one)], str(tmp_path / "out"), config=PLAIN)
    assert (tmp_path / "out" / "merge.json").exists()


def test_a_rule_that_fits_no_tensor_is_said(tmp_path, make):
    base, one, _ = make.three(tmp_path)
    rules = (Rule(match="nothing.*", action="copy"), Rule(match="*"))
    plan = plan_merge(base, [one], tmp_path / "out", config=MergeConfig(rules=rules))
    assert [note for note in plan.notes if "rule" in note] == [
        "the rule for match='nothing.*', kind=None fits no tensor"
    ]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"__metadata__": ["x"]}, "its metadata is list, not an object"),
        ({"__metadata__": "x"}, "its metadata is str, not an object"),
        ({}, "must hold tensors, has none"),
    ],
)
def test_a_header_of_another_form_is_one_message(tmp_path, make, header, words):
    base, one, _ = make.three(tmp_path)
    text = json.dumps(header).encode()
    (one / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match=words):
        plan_merge(base, [one], tmp_path / "out")
