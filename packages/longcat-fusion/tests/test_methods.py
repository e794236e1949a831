"""Every method against a dense reference in float64, written from its paper and from nothing here.

Dimension key: E experts, N elements, R rows, C columns.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from longcat_fusion import (
    Breadcrumbs,
    Dare,
    Della,
    IsoC,
    Karcher,
    Linear,
    MergeConfig,
    Ram,
    Recipe,
    ResMerge,
    Sce,
    Slerp,
    TaskArithmetic,
    Ties,
    merge_tensor,
)
from longcat_fusion._masks import key_of, random_words

SHAPE = (48, 40)
NAME = "model.layers.0.mlp.up_proj.weight"


def _merge(inputs, method, **settings):
    base, experts = inputs
    config = MergeConfig(method=method, **settings)
    tensors = [torch.from_numpy(expert.copy()) for expert in experts]
    got = merge_tensor(torch.from_numpy(base.copy()), tensors, config=config, name=NAME)
    return got.numpy()


def _deltas(inputs):
    base, experts = inputs
    return np.stack([expert.astype(float) - base.astype(float) for expert in experts])


def _check(got, inputs, change):
    np.testing.assert_allclose(got, inputs[0].astype(float) + change, rtol=0, atol=2e-6)


def _consensus(weighted, weights, average):
    """TIES's election, element by element in a loop."""
    flat = weighted.reshape(len(weighted), -1)
    out = np.zeros(flat.shape[1])
    for column in range(flat.shape[1]):
        total = sum(flat[:, column])
        agree = [i for i in range(len(flat)) if flat[i, column] * total > 0]
        kept = sum(flat[i, column] for i in agree)
        out[column] = kept / sum(weights[i] for i in agree) if average and agree else kept
    return out.reshape(weighted.shape[1:])


def _largest(delta, count):
    """Mask of the `count` largest by absolute value, by sorting."""
    mask = np.zeros(delta.size, bool)
    mask[np.argsort(-np.abs(delta).reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(delta.shape)


WEIGHTS = (1.0, 0.5, 2.0)
_W = np.array(WEIGHTS)[:, None, None]


@pytest.mark.parametrize("average", [True, False])
def test_linear(inputs, average):
    got = _merge(inputs, Linear(average=average), weights=WEIGHTS)
    experts = np.stack(inputs[1]).astype(float)
    wanted = (experts * _W).sum(0) / (3.5 if average else 1)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    even = _merge(inputs, "linear")
    np.testing.assert_allclose(even, experts.mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("average", [True, False])
def test_task_arithmetic(inputs, average):
    got = _merge(inputs, TaskArithmetic(average=average), weights=WEIGHTS, scale=0.7)
    _check(got, inputs, 0.7 * (_W * _deltas(inputs)).sum(0) / (3.5 if average else 1))


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("density", [0.3, 1.0, (0.2, 0.4, 1.0)])
def test_ties(inputs, density, average):
    got = _merge(inputs, Ties(density=density, average=average), weights=WEIGHTS, scale=1.5)
    deltas = _deltas(inputs)
    densities = density if isinstance(density, tuple) else (density,) * 3
    for delta, share in zip(deltas, densities, strict=True):
        delta *= _largest(delta, int(share * delta.size))
    _check(got, inputs, 1.5 * _consensus(_W * deltas, WEIGHTS, average))


@pytest.mark.parametrize(("density", "gamma"), [(0.3, 0.1), (0.95, 0.1), (0.0, 0.1), (0.3, 0.0)])
@pytest.mark.parametrize("erase", [True, False])
def test_breadcrumbs(inputs, density, gamma, erase):
    method = Breadcrumbs(density=density, gamma=gamma, erase=erase)
    got = _merge(inputs, method, weights=WEIGHTS)
    deltas = _deltas(inputs)
    for delta in deltas:
        kept = int(density * delta.size)
        outliers = min(int(gamma * delta.size), delta.size - kept)
        mask = _largest(delta, outliers + kept) & ~_largest(delta, outliers)
        delta *= mask if kept else 0
    weighted = _W * deltas
    _check(got, inputs, _consensus(weighted, WEIGHTS, False) if erase else weighted.sum(0))


@pytest.mark.parametrize("select", [0.25, 1.0, 0.0])
def test_sce(inputs, select):
    got = _merge(inputs, Sce(select=select), scale=2.0)
    deltas = _deltas(inputs)
    variance = deltas.var(axis=0)
    count = int(select * np.count_nonzero(variance))
    deltas *= _largest(variance, count)
    energy = (deltas**2).reshape(3, -1).sum(1)
    share = energy / energy.sum() if energy.sum() else np.ones(3) / 3
    change = np.zeros(SHAPE)
    for place in np.ndindex(SHAPE):
        column = deltas[(slice(None), *place)]
        agree = [i for i in range(3) if column[i] * column.sum() > 0]
        if agree:
            change[place] = sum(share[i] * column[i] for i in agree) / sum(share[i] for i in agree)
    _check(got, inputs, 2 * change)


@pytest.mark.parametrize("boost", [0.0, 0.3])
def test_ram(inputs, boost):
    got = _merge(inputs, Ram(threshold=0.05, boost=boost, limit=0.5), weights=WEIGHTS)
    deltas = _deltas(inputs)
    moved = np.abs(deltas) > np.float32(0.05)
    count = moved.sum(0)
    change = np.zeros(SHAPE)
    for i in range(3):
        lone, shared = moved[i] & (count == 1), moved[i] & (count > 1)
        factor = 1 + boost * min(shared.sum() / max(lone.sum(), 1), 0.5)
        change += WEIGHTS[i] * deltas[i] * (lone * factor + shared / np.maximum(count, 1))
    _check(got, inputs, change)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(inputs, t):
    base, (one, *_) = inputs
    got = _merge((base, [one]), Slerp(t=t))
    a, b = base.astype(float), one.astype(float)
    angle = math.acos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    wanted = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
    swapped = _merge((inputs[1][2], [base, one]), Slerp(t=t))
    np.testing.assert_array_equal(swapped, got)


def test_slerp_of_parallel_tensors_is_linear(inputs):
    base = inputs[0]
    np.testing.assert_allclose(_merge((base, [2 * base]), Slerp(t=0.25)), 1.25 * base, atol=1e-6)
    np.testing.assert_allclose(_merge((base, [-base]), Slerp(t=0.25)), 0.5 * base, atol=1e-6)
    zero = np.zeros_like(base)
    np.testing.assert_allclose(_merge((zero, [base]), Slerp(t=0.25)), 0.25 * base, atol=1e-6)


def test_karcher_is_where_the_weighted_logarithms_vanish():
    rng = np.random.default_rng(3)
    experts = [rng.standard_normal(SHAPE).astype(np.float32) * size for size in (1, 2, 3)]
    got = _merge((experts[0], experts), Karcher(), weights=(1.0, 1.0, 2.0)).astype(float)
    share = np.array([0.25, 0.25, 0.5])
    norms = [np.linalg.norm(expert.astype(float)) for expert in experts]
    assert np.linalg.norm(got) == pytest.approx(share @ norms, rel=1e-6)
    mean = got / np.linalg.norm(got)
    total = np.zeros(SHAPE)
    for weight, expert, norm in zip(share, experts, norms, strict=True):
        unit = expert / norm
        dot = (mean * unit).sum()
        total += weight * math.acos(dot) / math.sin(math.acos(dot)) * (unit - dot * mean)
    assert np.linalg.norm(total) < 1e-6
    few = _merge((experts[0], experts), Karcher(steps=1), weights=(1.0, 1.0, 2.0))
    assert np.abs(few - got).max() > 1e-6


def test_karcher_of_two_is_the_middle_of_slerp(inputs):
    base, (one, *_) = inputs
    one = one * np.float32(np.linalg.norm(base) / np.linalg.norm(one))  # slerp mixes unlike norms
    got = _merge((base, [base, one]), Karcher()).astype(float)
    middle = _merge((base, [one]), Slerp(t=0.5)).astype(float)
    np.testing.assert_allclose(got, middle, atol=1e-6)
    zeros = np.zeros_like(base)
    np.testing.assert_array_equal(_merge((base, [zeros, zeros]), Karcher()), zeros)


def test_karcher_leaves_a_tensor_of_zeros_out_of_the_direction():
    rng = np.random.default_rng(4)
    one, two = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    zeros = np.zeros_like(one)
    without = _merge((one, [one, two]), Karcher()).astype(float)
    got = _merge((one, [one, zeros, two]), Karcher()).astype(float)
    np.testing.assert_allclose(got, without * 2 / 3, atol=1e-6)  # the mean norm counts it


@pytest.mark.parametrize("method", [Recipe(drop=0.0), Ties(density=1.0), Sce(), Dare(erase=True)])
def test_a_balanced_vote_keeps_the_base(method):
    base = np.zeros((3, 4), np.float32)
    up = np.full((3, 4), 0.5, np.float32)
    other = up.copy()
    other[0] = -0.5
    config = MergeConfig(method=method, protect=("other", "mlp"))
    tensors = [torch.from_numpy(values) for values in (up, other)]
    got = merge_tensor(torch.from_numpy(base), tensors, config=config, name="w").numpy()
    assert (got[0] == 0).all()
    assert (got[1:] != 0).all()


def _keys(inputs, purpose, seed=0):
    """The masks' keys, from the documented rule: seed, tensor, digest of the expert's bytes."""
    import hashlib

    head = f"F32 {list(SHAPE)}\n".encode()
    digests = [hashlib.sha256(head + expert.tobytes()).hexdigest() for expert in inputs[1]]
    return [key_of(purpose, seed, NAME, digest) for digest in digests]


def _uniform(key):
    return random_words(key, 0, math.prod(SHAPE)).reshape(SHAPE) / 2**32


@pytest.mark.parametrize("rescale", ["expected", "l1", "none"])
@pytest.mark.parametrize(("erase", "average"), [(True, True), (True, False), (False, False)])
def test_dare(inputs, rescale, erase, average):
    method = Dare(density=0.6, rescale=rescale, erase=erase, average=average)
    got = _merge(inputs, method, weights=WEIGHTS, seed=5)
    deltas = _deltas(inputs)
    for delta, key in zip(deltas, _keys(inputs, "drop", 5), strict=True):
        before = np.abs(delta).sum()
        delta *= _uniform(key) < 0.6
        delta *= {"expected": 1 / 0.6, "l1": before / np.abs(delta).sum(), "none": 1}[rescale]
    weighted = _W * deltas
    change = _consensus(weighted, WEIGHTS, average) if erase else weighted.sum(0)
    _check(got, inputs, change)


@pytest.mark.parametrize("rescale", ["expected", "l1", "none"])
def test_della(inputs, rescale):
    method = Della(density=0.6, epsilon=0.2, rescale=rescale)
    got = _merge(inputs, method, weights=WEIGHTS)
    deltas = _deltas(inputs)
    for delta, key in zip(deltas, _keys(inputs, "drop"), strict=True):
        before = np.abs(delta).sum()
        uniform = _uniform(key)
        for row in range(SHAPE[0]):
            order = sorted(range(SHAPE[1]), key=lambda c: (abs(delta[row, c]), c))
            for rank, column in enumerate(order):
                chance = 0.4 + 0.4 * rank / (SHAPE[1] - 1)
                if uniform[row, column] >= chance:
                    delta[row, column] = 0
                elif rescale == "expected":
                    delta[row, column] /= chance
        if rescale == "l1":
            delta *= before / np.abs(delta).sum()
    _check(got, inputs, _consensus(_W * deltas, WEIGHTS, True))


def test_recipe(inputs):
    got = _merge(inputs, Recipe(drop=0.3), weights=WEIGHTS, scale=0.5, seed=9)
    deltas = _deltas(inputs)
    norms = [np.linalg.norm(delta) for delta in deltas]
    for delta, norm, key in zip(deltas, norms, _keys(inputs, "drop", 9), strict=True):
        delta *= np.mean(norms) / norm * (_uniform(key) < 0.7) / 0.7
    _check(got, inputs, 0.5 * _consensus(_W * deltas, WEIGHTS, False))


def test_the_recipe_leaves_an_expert_that_did_not_move_out_of_the_mean_norm(inputs):
    base, experts = inputs
    method = Recipe(drop=0.0, erase=False)
    got = _merge((base, [experts[0], base, experts[1]]), method)
    deltas = _deltas((base, experts[:2]))
    norms = [np.linalg.norm(delta) for delta in deltas]
    change = sum(delta * np.mean(norms) / norm for delta, norm in zip(deltas, norms, strict=True))
    _check(got, (base, None), change)


def test_iso_c_has_equal_singular_values_and_the_directions_of_the_sum(inputs):
    got = _merge(inputs, IsoC(), weights=WEIGHTS).astype(float) - inputs[0]
    total = (_W * _deltas(inputs)).sum(0)
    values = np.linalg.svd(total, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(got, compute_uv=False), values.mean(), rtol=1e-4)
    # the polar factor is what maximises the inner product with the sum
    assert (got * total).sum() == pytest.approx(values.mean() * values.sum(), rel=1e-5)


def test_iso_c_does_not_invent_directions(inputs):
    base = inputs[0]
    rank_one = np.outer(np.arange(48), np.ones(40)).astype(np.float32) / 100
    got = _merge((base, [base + rank_one]), IsoC()) - base
    np.testing.assert_allclose(got, rank_one, atol=1e-4)
    np.testing.assert_array_equal(_merge((base, [base]), IsoC()), base)


def test_resmerge(inputs):
    got = _merge(inputs, ResMerge(rank=2, budget=0.4))
    heads, rests = [], []
    for delta in _deltas(inputs):
        left, values, right = np.linalg.svd(delta)
        heads.append(sum(values[k] * np.outer(left[:, k], right[k]) for k in range(2)))
        rests.append(delta - heads[-1])
    norm = np.linalg.norm

    def cosine(a, b):
        return (a * b).sum() / norm(a) / norm(b)

    consensus = sum(rest / norm(rest) for rest in rests)
    consensus /= norm(consensus)
    coherence = np.mean([cosine(rest, consensus) for rest in rests])
    assert coherence > 1 / math.sqrt(3)
    pairs = list(itertools.combinations(range(3), 2))
    alike = np.mean([cosine(rests[i], rests[j]) for i, j in pairs])
    beta = 1.0 - 0.3 * ((alike + 1) / 2 + (coherence + 1) / 2) / 2
    backbone = coherence**beta * np.mean([norm(rest) for rest in rests]) * consensus
    agreement = np.mean([max(0, cosine(heads[i], heads[j])) for i, j in pairs])
    head = sum(heads) / 3
    change = backbone + 0.4 * agreement * norm(backbone) * head / norm(head)
    np.testing.assert_allclose(got, inputs[0] + change, atol=1e-5)


def test_resmerge_counts_an_expert_that_did_not_move_as_no_direction(inputs):
    base, experts = inputs
    with_still = _merge((base, [experts[0], base]), ResMerge()) - base
    delta = experts[0].astype(float) - base
    left, values, right = np.linalg.svd(delta)
    head = values[0] * np.outer(left[:, 0], right[0])
    # coherence 1/2 is below 1/sqrt(2): the mean of the residuals; one head agrees with itself
    rest = (delta - head) / 2
    wanted = rest + 0.2 * np.linalg.norm(rest) * head / np.linalg.norm(head)
    np.testing.assert_allclose(with_still, wanted, atol=1e-5)


def test_resmerge_averages_residuals_that_contradict_each_other(inputs):
    base, experts = inputs
    against = 2 * base - experts[0]
    got = _merge((base, [experts[0], against]), ResMerge())
    np.testing.assert_allclose(got, base, atol=1e-6)


@pytest.mark.parametrize("method", ["iso_c", "resmerge"])
def test_spectral_methods_average_what_is_no_matrix_of_a_layer(make, method):
    base = torch.zeros(6)
    experts = [torch.arange(6.0), torch.ones(6)]
    config = MergeConfig(method=method)
    got = merge_tensor(base, experts, config=config, name="model.norm.weight")
    make.near(got, (experts[0] + 1) / 2)
