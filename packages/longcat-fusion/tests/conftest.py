"""Checkpoints for the tests, and the `long` mark."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

LONG = os.environ.get("LONGCAT_LONG") == "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep; runs with LONGCAT_LONG=1")


def pytest_collection_modifyitems(items):
    for item in items:
        if "long" in item.keywords and not LONG:
            item.add_marker(pytest.mark.skip(reason="a sweep: set LONGCAT_LONG=1"))


def write_checkpoint(folder, tensors, *, shards=1, index=None, config=None, files=None):
    """Write tensors as a checkpoint folder of so many shards."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    homes = {}
    for number in range(shards):
        mine = names[number::shards]
        file = (
            "model.safetensors"
            if shards == 1
            else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        )
        homes.update(dict.fromkeys(mine, file))
        save_file(
            {name: tensors[name].contiguous() for name in mine},
            folder / file,
            metadata={"format": "pt"},
        )
    if shards > 1 if index is None else index:
        text = json.dumps({"metadata": {}, "weight_map": homes})
        (folder / "model.safetensors.index.json").write_text(text)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "test"}))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return folder


def read_checkpoint(folder):
    """All tensors of a folder."""
    from safetensors.torch import load_file

    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found.update(load_file(file))
    return found


def tiny_model(seed=0, *, dtype=torch.bfloat16, layers=2, width=64, vocab=96, experts=2):
    """A small mixture-of-experts model's tensors, with LongCat's names."""
    rng = torch.Generator().manual_seed(seed)

    def new(*shape):
        return (torch.randn(*shape, generator=rng) * 0.05).to(dtype)

    tensors = {"model.embed_tokens.weight": new(vocab, width)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        tensors[f"{at}.input_layernorm.weight"] = new(width) + 1
        tensors[f"{at}.self_attn.q_proj.weight"] = new(width, width)
        tensors[f"{at}.self_attn.q_proj.bias"] = new(width)
        tensors[f"{at}.mlp.router.classifier.weight"] = new(experts, width)
        tensors[f"{at}.mlp.router.e_score_correction_bias"] = new(experts).float()
        for expert in range(experts):
            tensors[f"{at}.mlp.experts.{expert}.up_proj.weight"] = new(2 * width, width)
    tensors["model.norm.weight"] = new(width) + 1
    tensors["lm_head.weight"] = new(vocab, width)
    return tensors


def moved(tensors, seed, *, size=0.02, share=0.5):
    """An expert of the tensors: a share of the elements moved."""
    rng = torch.Generator().manual_seed(1000 + seed)
    found = {}
    for name, tensor in tensors.items():
        change = torch.randn(tensor.shape, generator=rng) * size
        change *= torch.rand(tensor.shape, generator=rng) < share
        found[name] = (tensor.double() + change.double()).to(tensor.dtype)
    return found


class Make:
    """The helpers, as one fixture: test modules cannot import each other."""

    checkpoint = staticmethod(write_checkpoint)
    read = staticmethod(read_checkpoint)
    model = staticmethod(tiny_model)
    moved = staticmethod(moved)

    @staticmethod
    def near(got, wanted, *, rtol=1.3e-6, atol=1e-5):
        """Assert that two tensors are alike; torch's own function takes seconds to import sympy."""
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(got.double().numpy(), wanted.double().numpy(), rtol, atol)

    @staticmethod
    def bytes_of(folder):
        """Name and bytes of every shard."""
        return {file.name: file.read_bytes() for file in Path(folder).glob("*.safetensors")}

    @staticmethod
    def three(tmp_path, *, shards=1, **settings):
        """A base and two experts on the disk."""
        base = tiny_model(**settings)
        folders = [write_checkpoint(tmp_path / "base", base, shards=shards)]
        for number in range(2):
            tensors = moved(base, number)
            folders.append(write_checkpoint(tmp_path / f"x{number}", tensors, shards=shards))
        return folders


@pytest.fixture
def make():
    return Make


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def inputs():
    """A base and three experts of unlike strength, float32; half of the elements unmoved."""
    rng, shape = np.random.default_rng(7), (48, 40)
    base = rng.standard_normal(shape).astype(np.float32)
    experts = [
        (base + size * rng.standard_normal(shape) * (rng.random(shape) < 0.5)).astype(np.float32)
        for size in (0.1, 0.3, 0.05)
    ]
    return base, experts
