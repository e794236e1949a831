"""Plan files, mergekit's YAML, the report, and the commands around them."""

import json
import math
import sys
import types

import pytest
import torch
from longcat_fusion import (
    Breadcrumbs,
    ByName,
    Dare,
    Della,
    Gradient,
    Karcher,
    Linear,
    MergeConfig,
    Ram,
    Rule,
    Sce,
    Slerp,
    TaskArithmetic,
    Ties,
    interference,
    merge_folders,
)
from longcat_fusion.__main__ import main
from longcat_fusion._planfile import read_merge_file, read_size


def _file(folder, text, name="plan.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_plan_file_says_what_the_library_can(tmp_path, make):
    make.three(tmp_path)
    path = _file(
        tmp_path,
        """
base = "base"
out = "out"
method = "ties"
seed = 4
scale = 0.5
rounding = "stochastic"
budget = "64MB"
protect = ["norm"]
[[experts]]
path = "x0"
weight = 0.25
[[experts]]
path = "x1"
weight = 1
[parameters]
density = [0.3, 0.5]
[[rules]]
match = "*.experts.*"
parameters = { density = { gradient = [0.2, 0.5] }, weights = [1, { by_name = [["*", 2]] }] }
[[rules]]
kind = "router"
action = "copy"
""",
    )
    found = read_merge_file(path)
    assert found.config == MergeConfig(
        method=Ties(density=(0.3, 0.5)), seed=4, scale=0.5, rounding="stochastic",
        budget_bytes=64 << 20, protect=("norm",), weights=(0.25, 1),
        rules=(
            Rule(match="*.experts.*", parameters={"density": Gradient((0.2, 0.5)),
                                                  "weights": (1, ByName((("*", 2),)))}),
            Rule(kind="router", action="copy"),
        ),
    )  # fmt: skip
    assert main(["merge", str(path)]) == 0
    merge_folders(found.base, found.experts, tmp_path / "same", config=found.config)
    assert make.bytes_of(tmp_path / "out") == make.bytes_of(tmp_path / "same")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x =", "must be TOML"),
        ('base = "base"', "experts must be given"),
        ('base = "base"\nexperts = "x0"', "must be a list"),
        ('base = "base"\nexperts = ["x9"]', "must be a folder or a hub id, none at .*x9"),
        ('base = "base"\nexperts = [{path = "x0", wait = 1}]', "has path and weight"),
        ('base = "base"\nexperts = [{path = "x0", weight = 1}, {path = "x1"}]', "need a weight"),
        ('base = "base"\nexperts = ["x0"]\nmethod = "tie"', "method must be one of"),
        ('base = "base"\nexperts = ["x0"]\ndensity = 0.3', "unknown: density"),
        ('base = "base"\nexperts = ["x0"]\n[parameters]\ndensity = 0.3', "unknown: density"),
        ('base = "base"\nexperts = ["x0"]\nbudget = "many"', "size must be like"),
        ('base = "base"\nexperts = ["x0"]\nscale = "a"', "scale"),
        ('base = "base"\nexperts = ["x0"]\n[[rules]]\nglob = "*"', "unknown: glob"),
        ('base = "base"\nexperts = ["x0"]\n[parameters]\ndrop = {a = 1}', "a setting is"),
        ('base = "base"\nexperts = ["nobody/x0"]', r"install 'longcat-fusion\[hub\]'"),
    ],
)
def test_mistakes_in_a_plan_file_are_one_line(tmp_path, make, capsys, monkeypatch, text, match):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    make.three(tmp_path)
    path = _file(tmp_path, text)
    assert main(["plan", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1 or "TOML" in printed.err
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        read_merge_file(path)


def test_plan_prints_and_writes_nothing(tmp_path, make, capsys):
    make.three(tmp_path, shards=2)
    path = _file(tmp_path, 'base = "base"\nexperts = ["x0", "x1"]\nout = "out"')
    assert main(["plan", str(path)]) == 0
    text = capsys.readouterr().out
    assert "recipe: 2 experts" in text
    assert "17 tensors in 2 shards" in text
    assert main(["plan", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["tensors"], facts["shards"], facts["copied"]) == (17, 2, ["config.json"])
    assert not (tmp_path / "out").exists()
    assert main(["merge", str(_file(tmp_path, 'base="base"\nexperts=["x0"]'))]) == 2
    assert "give --out" in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "none.toml")]) == 2


def test_an_interrupted_command_says_how_to_go_on(tmp_path, make, capsys, monkeypatch):
    make.three(tmp_path)
    path = _file(tmp_path, 'base = "base"\nexperts = ["x0"]\nout = "out"')

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("longcat_fusion.__main__.run_plan", stop)
    assert main(["merge", str(path)]) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


def test_sizes():
    assert [read_size(text) for text in ("512MB", "2 GiB", "1.5k", 7, "9")] == [
        512 << 20, 2 << 30, 1536, 7, 9,
    ]  # fmt: skip


def test_hub_ids_are_fetched_by_name_and_revision(tmp_path, make, monkeypatch):
    folder = make.three(tmp_path)[0]
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(folder)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    path = _file(tmp_path, 'base = "a/b"\nexperts = ["c/d@v1.0", "x0"]')
    found = read_merge_file(path)
    assert asked == [("a/b", None), ("c/d", "v1.0")]
    assert found.experts == (folder, tmp_path / "x0")


_YAML = """
merge_method: {method}
base_model: base
models:
  - model: base
  - model: x0
    parameters: {first}
  - model: x1
    parameters: {second}
parameters: {shared}
dtype: bfloat16
"""


@pytest.mark.parametrize(
    ("method", "first", "shared", "wanted", "settings"),
    [
        ("task_arithmetic", "{weight: 0.3}", "{lambda: 2}", TaskArithmetic(), {"scale": 2}),
        ("ties", "{weight: 0.3, density: 0.5}", "{}", Ties(density=(0.5, 0.5)), {}),
        ("ties", "{weight: 0.3}", "{normalize: false}", Ties(density=1.0, average=False), {}),
        ("dare_ties", "{weight: 0.3, density: 0.5}", "{}",
         Dare(density=(0.5, 0.5), rescale="l1", erase=True), {}),
        ("dare_linear", "{weight: 0.3}", "{density: 0.4, rescale: false}",
         Dare(density=(0.4, 0.4), rescale="none"), {}),
        ("della", "{weight: 0.3, density: 0.5, epsilon: 0.1}", "{}",
         Della(density=(0.5, 0.5), epsilon=(0.1, 0.1)), {}),
        ("della_linear", "{weight: 0.3}", "{density: 0.6}",
         Della(density=(0.6, 0.6), erase=False, average=False), {}),
        ("breadcrumbs_ties", "{weight: 0.3, density: 0.5, gamma: 0.1}", "{}",
         Breadcrumbs(density=(0.5, 0.5), gamma=(0.1, 0.1), erase=True), {}),
        ("sce", "{}", "{select_topk: 0.2}", Sce(select=0.2), {"weights": (1.0, 1.0)}),
        ("ram", "{}", "{}", Ram(threshold=1e-5), {"weights": (1.0, 1.0)}),
        ("ramplus_tl", "{}", "{r: 0.3, epsilon: 1e-4}",
         Ram(threshold=1e-4, boost=0.3, limit=0.2), {"weights": (1.0, 1.0)}),
    ],
)  # fmt: skip
def test_mergekits_yaml_is_understood(tmp_path, make, method, first, shared, wanted, settings):
    pytest.importorskip("yaml")
    make.three(tmp_path)
    text = _YAML.format(method=method, first=first, second=first, shared=shared)
    found = read_merge_file(_file(tmp_path, text, "m.yml"))
    assert found.experts == (tmp_path / "x0", tmp_path / "x1")
    assert (found.config.dtype, found.config.protect) == ("BF16", ())
    got = found.config.for_tensor("model.layers.0.mlp.up_proj.weight", 2, 0.5)
    assert got.method == wanted
    assert got.weights == settings.get("weights", (0.3, 0.3))
    assert got.scale == settings.get("scale", 1.0)
    assert main(["merge", str(tmp_path / "m.yml"), "--out", str(tmp_path / "out")]) == 0


def test_mergekits_filters_gradients_and_slices(tmp_path, make):
    pytest.importorskip("yaml")
    make.three(tmp_path)
    weight = "{weight: [{filter: mlp, value: [0, 1]}, {filter: q*, value: 7}, {value: 0.5}]}"
    text = _YAML.format(method="task_arithmetic", first=weight, second="{weight: 1}", shared="{}")
    config = read_merge_file(_file(tmp_path, text, "m.yml")).config
    for name, depth, wanted in (
        ("layers.0.mlp.up.weight", 0.25, 0.25), ("layers.0.attn.weight", 0.25, 0.5),
        ("layers.0.q*x.weight", 0.25, 7.0), ("layers.0.qx.weight", 0.25, 0.5),
    ):  # fmt: skip
        assert config.for_tensor(name, 2, depth).weights == (wanted, 1.0)
    text = """
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: x0, layer_range: [0, 2]}
merge_method: slerp
base_model: base
parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.25}]}
"""
    found = read_merge_file(_file(tmp_path, text, "s.yml"))
    assert found.experts == (tmp_path / "x0",)
    assert found.config.for_tensor("a.mlp.b", 1, 0.5).method == Slerp(t=0.5)
    assert found.config.for_tensor("a.b", 1, 0.5).method == Slerp(t=0.25)
    text = "merge_method: karcher\nbase_model: base\nmodels: [{model: base}, {model: x0}]"
    found = read_merge_file(_file(tmp_path, text, "k.yml"))
    assert found.experts == (tmp_path / "base", tmp_path / "x0")  # a mean counts the base too
    for name, wanted in (("linear", Linear()), ("karcher", Karcher(steps=10))):
        weights = "{weight: 1}" if name == "linear" else "{}"
        models = f"[{{model: x0, parameters: {weights}}}, {{model: x1, parameters: {weights}}}]"
        text = f"merge_method: {name}\nmodels: {models}"
        found = read_merge_file(_file(tmp_path, text, "l.yml"))
        assert (found.base, found.config.chosen) == (tmp_path / "x0", wanted)
        assert found.experts == (tmp_path / "x0", tmp_path / "x1")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [", "must be YAML"),
        ("- a", "must hold a mapping"),
        ("merge_method: model_stock", "merge_method must be one of"),
        ("merge_method: ties\nmodels: []", "needs base_model"),
        ("merge_method: ties\nbase_model: base\nmodels: [{model: base}]", "besides the base"),
        ("merge_method: ties\nbase_model: base\nmodels: [{model: x0}]", "needs a weight"),
        ("merge_method: linear\nmodels: [{model: x0}]\nchat_template: auto", "not chat_template"),
        (
            ("merge_method: ties\nbase_model: base\nmodels: [{model: x0, parameters: "
            "{weight: 1, gamma: 1}}]"), "not gamma",
        ),
        (
            ("merge_method: ties\nbase_model: base\nmodels: [{model: x0, parameters: "
            "{weight: 1}}]\nparameters: {rescale: true}"), "with rescale",
        ),
        (
            ("merge_method: linear\nmodels: [{model: x0, parameters: {weight: 1}}]\n"
            "tokenizer_source: union"), "union is not understood",
        ),
        ("merge_method: linear\nslices: [{sources: [{model: x0, layer_range: [4, 8]}]}]", "from 0"),
    ],
)  # fmt: skip
def test_what_is_not_understood_of_mergekit_is_refused(tmp_path, make, text, match):
    pytest.importorskip("yaml")
    make.three(tmp_path)
    with pytest.raises(ValueError, match=match):
        read_merge_file(_file(tmp_path, text, "m.yaml"))


def test_tokenizer_source(tmp_path, make):
    pytest.importorskip("yaml")
    base, one, _ = make.three(tmp_path)
    (base / "tokenizer.json").write_text("base")
    (one / "tokenizer.json").write_text("one")
    models = "models: [{model: x0, parameters: {weight: 1}}]"
    text = f"merge_method: linear\nbase_model: base\n{models}\ntokenizer_source: x0"
    path = _file(tmp_path, text, "m.yaml")
    assert main(["merge", str(path), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "one"


def _opposed(tmp_path, make, *, size=0.01):
    """Two experts over one base; the second undoes the first in the last layer."""
    base = make.model(dtype=torch.float32)
    one = {n: t + size * torch.randn(t.shape) for n, t in base.items()}
    two = {n: 2 * t - one[n] if "layers.1" in n else one[n] for n, t in base.items()}
    return [make.checkpoint(tmp_path / n, t) for n, t in (("b", base), ("p", one), ("q", two))]


def test_interference_against_sums_over_the_whole_tensors(tmp_path, make):
    base = make.model(dtype=torch.float32, width=70)
    experts = [make.moved(base, n, share=0.3) for n in range(3)]
    folders = [
        make.checkpoint(tmp_path / n, t) for n, t in zip("bxyz", [base, *experts], strict=True)
    ]
    report = interference(folders[0], folders[1:])
    deltas = [torch.cat([(e[n].double() - base[n].double()).view(-1) for n in base])
              for e in experts]  # fmt: skip
    start = torch.cat([tensor.double().view(-1) for tensor in base.values()])
    figures = report.total().figures()
    near = {"rel": 1e-4, "abs": 1e-7}
    assert figures["elements"] == len(start)
    for n, delta in enumerate(deltas):
        assert figures["norm"][n] == pytest.approx(float(delta.norm()), **near)
        relative = float(delta.norm() / start.norm())
        assert figures["relative_norm"][n] == pytest.approx(relative, **near)
        assert figures["unchanged"][n] == pytest.approx(float((delta == 0).double().mean()))
    for place, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        a, b = deltas[i], deltas[j]
        both, either = (a != 0) & (b != 0), (a != 0) | (b != 0)
        cosine = float(a @ b / a.norm() / b.norm())
        assert figures["cosine"][place] == pytest.approx(cosine, **near)
        assert figures["overlap"][place] == pytest.approx(float(both.sum() / either.sum()))
        opposed = float((a * b < 0).sum() / both.sum())
        assert figures["sign_conflict"][place] == pytest.approx(opposed)
    norms = figures["norm"]
    assert figures["norm_ratio"] == max(norms) / min(norms)
    cancelled = 1 - sum(deltas).abs().sum() / sum(d.abs().sum() for d in deltas)
    assert figures["cancelled"] == pytest.approx(float(cancelled), **near)


def test_the_report_says_when_merging_is_unlikely_to_work(tmp_path, make):
    base, one, two = _opposed(tmp_path, make)
    report = interference(base, [one, two])
    layers = report.as_json()["layers"]
    assert layers["0"]["cosine"] == [pytest.approx(1.0)]
    assert layers["1"]["cosine"] == [pytest.approx(-1.0)]
    assert layers["1"]["cancelled"] == pytest.approx(1.0, abs=1e-4)
    word, reasons = report.verdict()
    assert word == "unlikely"
    assert "cancels" in reasons[0]
    assert interference(base, [one, one]).verdict()[0] == "likely"
    far = make.checkpoint(tmp_path / "far", make.model(5, dtype=torch.float32))
    word, reasons = interference(base, [one, far]).verdict()
    assert word == "unlikely"
    assert "expert of this base" in " ".join(reasons)
    small = {n: t + (make.read(one)[n] - t) / 50 for n, t in make.read(base).items()}
    small = make.checkpoint(tmp_path / "small", small)
    word, reasons = interference(base, [one, small]).verdict()
    assert word == "uncertain"
    assert "50 times the smallest" in reasons[0]
    still = interference(base, [base, base])
    assert "is equal to the base" in " ".join(still.verdict()[1])
    figures = still.total().figures()
    assert (figures["overlap"], figures["sign_conflict"], figures["lost"]) == ([0], [0], 0)
    assert (figures["cosine"], figures["cancelled"], figures["norm_ratio"]) == ([0], 0, 1)


def test_the_report_counts_updates_a_mean_would_lose(tmp_path, make):
    base = torch.ones(3000, dtype=torch.bfloat16)
    folders = [make.checkpoint(tmp_path / "b", {"w": base})]
    for number in range(3):
        tensor = base.clone()
        tensor[number::3] = 1 + 2**-7
        folders.append(make.checkpoint(tmp_path / str(number), {"w": tensor}))
    report = interference(folders[0], folders[1:])
    assert report.total().figures()["lost"] == 1.0
    assert any("put back 100%" in reason for reason in report.verdict()[1])


def test_report_command_writes_json_and_a_page(tmp_path, make, capsys):
    _opposed(tmp_path, make)
    path = _file(tmp_path, 'base = "b"\nexperts = ["p", "q"]')
    assert main(["report", str(path), "--out", str(tmp_path / "seen")]) == 0
    assert "merging is unlikely to work" in capsys.readouterr().out
    data = json.loads((tmp_path / "seen" / "interference.json").read_text())
    assert data["verdict"] == "unlikely"
    assert not any(math.isnan(value) for value in data["total"]["cosine"])
    text = (tmp_path / "seen" / "interference.html").read_text()
    assert text.count("<svg") == 6
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert main(["report", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == [["p", "q"]]
