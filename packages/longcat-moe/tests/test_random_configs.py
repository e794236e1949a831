"""Twenty of the random configs; `random_configs.py` has five hundred."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("transformers")
_spec = importlib.util.spec_from_file_location(
    "moe_random_configs", Path(__file__).with_name("random_configs.py")
)
random_configs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(random_configs)


@pytest.mark.parametrize("first", [0, 10])
def test_the_same_logits_as_transformers_or_refused_by_both(first, tmp_path):
    seeds = range(first, first + 10)
    outcomes = [random_configs.compare(seed, tmp_path / str(seed)) for seed in seeds]
    assert {*outcomes} == {"equal", "refused"}


@pytest.mark.long
def test_five_hundred_do(tmp_path):
    outcomes = [random_configs.compare(seed, tmp_path / str(seed)) for seed in range(500)]
    assert outcomes.count("equal") > 300
