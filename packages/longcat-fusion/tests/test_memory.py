"""The budget holds, and neither tiles, threads, shards nor order change a byte."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from longcat_fusion import (
    METHODS,
    Della,
    IsoC,
    MergeConfig,
    Ties,
    merge,
    merge_folders,
    plan_merge,
)
from longcat_fusion._headers import header_bytes

_PEAK = """
import sys, torch, pathlib
import longcat_fusion as lf
import longcat_fusion._merge
def peak():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024
folder, budget = pathlib.Path(sys.argv[1]), int(sys.argv[2])
lf.merge_folders(folder / "small", [folder / "small"] * 1, folder / "warm")
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
for name in sys.argv[3:]:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    config = lf.MergeConfig(method=name, budget_bytes=budget, threads=2)
    experts = [folder / f"x{i}" for i in range(1 if name == "slerp" else 3)]
    lf.merge_folders(folder / "base", experts, folder / f"out-{name}", config=config)
    print(name, peak() - before)
"""


def _big(folder, seed, rows, columns):
    """A checkpoint of one bf16 matrix, of which 4096 rows repeat."""
    folder.mkdir()
    name = "model.layers.0.mlp.up_proj.weight"
    head, _ = header_bytes([(name, "BF16", (rows, columns))], {"format": "pt"})
    part = np.random.default_rng(seed).standard_normal((1024, columns)).astype(np.float32)
    raw = (part.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with (folder / "model.safetensors").open("wb") as opened:
        opened.write(head)
        for _ in range(rows // 1024):
            opened.write(raw)
    return folder


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("big")
    _big(folder / "small", 0, 1024, 16)
    for number, name in enumerate(("base", "x0", "x1", "x2")):
        _big(folder / name, number, 8192, 1024)
    return folder


_TILED = [name for name, method in METHODS.items() if not method.whole]


@pytest.mark.parametrize(
    "names",
    [["recipe", "ties", "della"], pytest.param(_TILED, marks=pytest.mark.long)],
    ids=["some", "all"],
)
def test_the_peak_of_the_process_stays_within_the_budget(big, names):
    tensor, budget = 8192 * 1024 * 2, 15 << 20  # less than one tensor of 16 MiB
    assert budget < tensor
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, big, str(budget), *names],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peaks = dict(line.split() for line in done.stdout.splitlines())
    assert list(peaks) == names
    for name, peak in peaks.items():
        assert 0 < int(peak) <= budget, f"{name}: {int(peak) >> 20} MiB"


def test_the_plan_says_the_memory_and_refuses_what_passes_the_budget(big, tmp_path):
    experts = [big / "x0", big / "x1"]
    assert MergeConfig().budget_bytes == 512 << 20
    plan = plan_merge(big / "base", experts, tmp_path / "out")
    assert plan.memory_bytes <= 512 << 20
    small = plan_merge(
        big / "base", experts, tmp_path / "out", config=MergeConfig(budget_bytes=10 << 20)
    )
    assert small.memory_bytes <= 10 << 20
    assert small.tile_size < plan.tile_size
    with pytest.raises(ValueError, match=r"up_proj\.weight needs \d+ MiB for iso_c.* allows 16"):
        plan_merge(
            big / "base", experts, tmp_path / "out",
            config=MergeConfig(method=IsoC(), budget_bytes=16 << 20),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"needs \d+ MiB for ties, budget_bytes allows 1$"):
        plan_merge(
            big / "base", experts, tmp_path / "out",
            config=MergeConfig(method=Ties(), budget_bytes=1 << 20),
        )  # fmt: skip


def test_the_plan_counts_wider_numbers_more_experts_and_longer_units(tmp_path, make):
    def memory(dtype=torch.float32, experts=1, method="ties", columns=64):
        name = f"{dtype}-{experts}-{columns}"
        model = {"layers.0.mlp.up_proj.weight": torch.zeros(512, columns, dtype=dtype)}
        base = make.checkpoint(tmp_path / name, model)
        config = MergeConfig(method=method, budget_bytes=1 << 30, threads=1)
        return plan_merge(base, [base] * experts, tmp_path / "out", config=config).memory_bytes

    assert memory(torch.float64) > memory() > memory(torch.float32, columns=8)
    assert memory(experts=3) > memory(experts=2) > memory()
    least = memory(method="linear")
    assert memory(method="iso_c") > least
    assert memory(method="breadcrumbs") > memory(method="ties") > memory(method="sce") - 1 >= least
    assert memory(method="della") > memory(method=Della(rescale="expected")) == least


def _odd_shapes(seed):
    rng = torch.Generator().manual_seed(seed)
    return {
        "model.layers.0.mlp.up_proj.weight": torch.randn(311, 97, generator=rng).bfloat16(),
        "model.layers.0.mlp.experts": torch.randn(3, 53, 129, generator=rng),
        "model.layers.0.scale": torch.randn((), generator=rng),
        "model.layers.0.empty": torch.zeros(0, 4),
        "model.layers.0.mlp.wide.weight": torch.randn(1, 20011, generator=rng).half(),
        "model.layers.0.mlp.double.weight": torch.randn(70, 131, generator=rng).double(),
    }


@pytest.mark.parametrize("method", [None, *METHODS, Della(rescale="expected")])
def test_tiles_threads_shards_and_order_of_experts_change_no_byte(tmp_path, make, method):
    """Means and sums over experts alone depend on the order, by rounding; masks never do."""
    base = _odd_shapes(0)
    experts = [_odd_shapes(number) for number in (1, 2)]
    if method == "slerp":
        experts = experts[:1]
    folders = [make.checkpoint(tmp_path / "base", base, shards=2)]
    folders += [
        make.checkpoint(tmp_path / f"x{number}", tensors) for number, tensors in enumerate(experts)
    ]
    spread = [make.checkpoint(tmp_path / f"y{number}", tensors, shards=4)
              for number, tensors in enumerate(experts)]  # fmt: skip
    whole = merge(base, experts, config=MergeConfig(method=method))
    settings = [
        (folders[1:], {"threads": 1, "budget_bytes": 9 << 20}),
        (spread, {"threads": 4}),
        (folders[:0:-1], {"threads": 2}),
    ]
    if method in ("iso_c", "resmerge"):
        settings[0][1]["budget_bytes"] = 64 << 20
    for number, (inputs, extra) in enumerate(settings):
        out = tmp_path / f"out{number}"
        merge_folders(folders[0], inputs, out, config=MergeConfig(method=method, **extra))
        found = make.read(out)
        assert set(found) == set(base)
        for name, tensor in whole.items():
            assert (found[name].dtype, found[name].shape) == (base[name].dtype, base[name].shape)
            assert torch.equal(found[name].view(-1), tensor.view(-1)), (name, extra)


def test_masks_follow_the_expert_not_its_place(make):
    base = {"w": torch.zeros(50_000)}
    one, two = {"w": torch.ones(50_000)}, {"w": torch.full((50_000,), 2.0)}
    config = MergeConfig(normalise=False, drop=0.5, erase=False)
    both = merge(base, [one, two], config=config)["w"]
    assert torch.equal(both, merge(base, [two, one], config=config)["w"])
    alone = merge(base, [one], config=config)["w"] + merge(base, [two], config=config)["w"]
    assert torch.equal(both, alone)
    kept = both != 0
    assert abs(kept.float().mean() - 0.75) < 0.01  # the two masks are independent
    for other in (MergeConfig(normalise=False, drop=0.5, erase=False, seed=1),):
        assert not torch.equal(both, merge(base, [one, two], config=other)["w"])
    renamed = merge({"v": base["w"]}, [{"v": one["w"]}, {"v": two["w"]}], config=config)["v"]
    assert not torch.equal(both, renamed)
