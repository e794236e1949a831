"""Batches by tokens: against counts."""

from random import Random

import numpy as np
import pytest
import torch
from longcat_gspo import Sample, TrainerConfig, token_batches
from longcat_gspo._attempts import check_samples
from longcat_gspo._samples import Rows, micro_batches

LENGTHS = [Random(0).randint(20, 200) for _ in range(700)]


def test_nothing_is_seen_twice_before_nearly_all_was_seen():
    seen: set[int] = set()
    for batch in token_batches(LENGTHS, batch_tokens=640, num_batches=300, seed=3):
        if seen & set(batch):
            break
        seen.update(batch)
    assert 0.95 * len(LENGTHS) < len(seen) <= len(LENGTHS)


def test_batches_are_full_and_even():
    for batch in token_batches(LENGTHS, batch_tokens=640, num_batches=250, seed=3):
        sizes = [LENGTHS[place] for place in batch]
        assert 640 <= sum(sizes) < 640 + max(sizes)
        assert len(sizes) * max(sizes) < 1.25 * sum(sizes)  # little padding


def test_the_seed_decides_and_few_samples_make_one_batch():
    draw = [token_batches(LENGTHS, batch_tokens=640, num_batches=9, seed=s) for s in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    assert [sorted(b) for b in token_batches([5, 5], batch_tokens=64, num_batches=2, seed=0)] == [
        [0, 1], [0, 1]
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least one sample"):
        token_batches([], batch_tokens=64, num_batches=1, seed=0)


def _sample(item):
    token, length = item
    return Sample(token_ids=[token] * length, loss_mask=[True] * length)


@pytest.mark.parametrize("most", [1_000, 3_000, 9_000])
def test_micro_batches_are_about_equal_and_no_more_than_needed(most):
    """Each within one sample of its share; one part fewer would break the limit somewhere."""
    rng = Random(1)
    lengths = [rng.randint(40, 120) for _ in range(200)]
    parts = micro_batches(list(enumerate(lengths)), _sample, most)
    parts = [[length for _, length in part] for part in parts]
    assert sorted(n for part in parts for n in part) == sorted(lengths)
    share = sum(lengths) / len(parts)
    assert all(abs(sum(part) - share) <= 2 * 120 for part in parts)
    assert all(len(part) * max(part) <= most for part in parts)
    assert sum(lengths) / most <= len(parts) <= 1.4 * sum(lengths) / most + 1


def test_what_is_the_same_counts_once_and_stays_together():
    items = [(0, 5), (1, 5), (2, 5), (0, 5), (1, 5), (0, 6), (0, 5)]
    assert micro_batches(items, _sample, 5) == [[(0, 5)] * 3, [(1, 5)] * 2, [(2, 5)], [(0, 6)]]
    assert micro_batches(items, _sample, 15) == [
        [(0, 5)] * 3 + [(1, 5)] * 2 + [(2, 5)], [(0, 6)]
    ]  # fmt: skip
    assert micro_batches([(3, 4)] * 9, _sample, 4) == [[(3, 4)] * 9]


@pytest.mark.parametrize("kind", ["array", "tensor", "bfloat16", "in a graph"])
def test_samples_may_be_held_in_tensors_and_arrays(kind):
    def turned(values):
        if kind == "array":
            return np.array(values)
        held = torch.tensor(values)
        if not held.is_floating_point():
            return held
        return held.bfloat16() if kind == "bfloat16" else held.requires_grad_(kind == "in a graph")

    samples = [
        Sample(token_ids=turned([1, 2, last]), loss_mask=turned([False, True, True]),
               log_probs=turned([0.0, -0.5, -1.0]), reward=float(last))
        for last in (3, 4)
    ]  # fmt: skip
    check_samples(samples, TrainerConfig(), 8)  # which finds that both begin alike
    rows = Rows.of(samples, torch.device("cpu"))
    assert rows.ids_BL.tolist() == [[1, 2, 3], [1, 2, 4]]
    assert rows.old_T.tolist() == [-0.5, -1.0] * 2
