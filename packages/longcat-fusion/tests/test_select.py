"""The k-th largest is what sorting says, whatever the sample said before; masks are remembered."""

import numpy as np
import pytest
from longcat_fusion._methods._drop import Remembered
from longcat_fusion._methods.della import _ranks
from longcat_fusion._select import Sample, kth_largest

SIZE = 20_000


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_kth_largest_is_what_sorting_says(rng, kind):
    streams = [
        np.abs(rng.standard_normal(5000)).astype(kind),
        np.repeat(np.abs(rng.standard_normal(50)), 100).astype(kind),
        np.zeros(5000, kind),
        (10.0 ** rng.uniform(-30, 30, 5000)).astype(kind),
    ]
    ranks = [[1, 7, 2500, 5000], [1, 100, 101, 4999], [1, 5000], [3, 0]]
    passes = []

    def parts():
        passes.append(0)
        for start in range(0, 5000, 777):
            yield [stream[start : start + 777] for stream in streams]

    found = kth_largest(parts, ranks)
    for stream, wanted, got in zip(streams, ranks, found, strict=True):
        ordered = np.sort(stream)[::-1]
        assert got == [ordered[k - 1] if k else np.inf for k in wanted]
    assert len(passes) == (2 if kind == np.float32 else 4)
    with pytest.raises(ValueError, match="at most the 5000 values"):
        kth_largest(parts, [[5001], [], [], []])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40))
def test_kth_largest_sweep(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 40_000))
    stream = np.abs(rng.standard_normal(size)).astype(np.float32)
    if seed % 2:
        stream = (stream.view(np.uint32) & 0xFFFF0000).view(np.float32)
    ranks = rng.integers(1, size + 1, 5).tolist()
    ordered = np.sort(stream)[::-1]
    step = int(rng.integers(1, size + 1))
    found = kth_largest(lambda: ([stream[at : at + step]] for at in range(0, size, step)), [ranks])
    assert found == [[ordered[rank - 1] for rank in ranks]]


def _shares(rng):
    """Streams that a window could trip over: smooth, in lumps, mostly zero, of one value."""
    smooth = np.abs(rng.standard_normal(SIZE)).astype(np.float32)
    return {
        "smooth": smooth,
        "lumps": (smooth.view(np.uint32) & 0xFFF00000).view(np.float32),
        "mostly zero": smooth * (rng.random(SIZE) < 0.3),
        "one value": np.full(SIZE, 3, np.float32),
        "rising": np.sort(smooth),
        "float64": smooth.astype(np.float64) ** 3,
    }


def _search(stream, ranks, *, room, parts=None, step=1111):
    passes = []

    def whole():
        passes.append(0)
        for at in range(0, SIZE, step):
            yield [stream[at : at + step]]

    def few():
        for at in range(0, SIZE, SIZE // 20):
            yield [stream[at : at + 200]]

    found = kth_largest(whole, [ranks], Sample(parts or few, SIZE, room))
    return found[0], len(passes)


@pytest.mark.parametrize(
    "kind", ["smooth", "lumps", "mostly zero", "one value", "rising", "float64"]
)
@pytest.mark.parametrize("room", [SIZE, SIZE // 4, 10])
def test_a_sample_saves_passes_and_changes_nothing(rng, kind, room):
    stream = _shares(rng)[kind]
    ordered = np.sort(stream)[::-1]
    for rank in (1, 2, 199, SIZE // 5, SIZE // 2, SIZE - 1, SIZE):
        found, passes = _search(stream, [rank, 0], room=room)
        assert found == [ordered[rank - 1], np.inf]
        assert passes <= (5 if stream.dtype == np.float64 else 3)
        if room == SIZE or (kind == "smooth" and rank == SIZE // 2 and room > 10):
            assert passes == 1


@pytest.mark.parametrize("shown", ["the small", "the large", "the middle"])
def test_a_sample_that_misleads_costs_passes_alone(rng, shown):
    stream = _shares(rng)["smooth"]
    ordered = np.sort(stream)
    piece = {"the small": ordered[:2000], "the large": ordered[-2000:],
             "the middle": ordered[9000:11000]}[shown]  # fmt: skip
    for rank in (1, 500, SIZE // 2, SIZE - 500, SIZE):
        found, _ = _search(stream, [rank], room=SIZE // 4, parts=lambda: iter([[piece]]))
        assert found == [ordered[-rank]]


def test_a_rank_may_depend_on_how_many_values_are_above_0(rng):
    stream = _shares(rng)["mostly zero"]
    ordered = np.sort(stream)[::-1]
    moved = int(np.count_nonzero(stream))
    for room in (SIZE, SIZE // 4, 10):
        found, _ = _search(stream, [lambda count: count // 4, lambda count: 0], room=room)
        assert found == [ordered[moved // 4 - 1], np.inf]
    found = kth_largest(lambda: iter([[stream]]), [[lambda count: count // 4]])
    assert found == [[ordered[moved // 4 - 1]]]


def test_a_rank_beyond_the_values_is_refused_with_a_sample_too(rng):
    stream = _shares(rng)["smooth"]
    with pytest.raises(ValueError, match=f"at most the {SIZE} values"):
        _search(stream, [SIZE + 1], room=SIZE // 4)


def test_what_was_dropped_is_remembered_as_far_as_there_is_room(rng):
    calls = []

    def drop(start, stop, deltas):
        calls.append(start)
        for delta in deltas:
            delta[start % 3 :: 3] = 0

    remembered = Remembered(drop, room=2 * 2 * 13)  # two of three tiles, two experts, 100 bits
    tiles = {start: [rng.standard_normal(100) for _ in range(2)] for start in (0, 100, 200)}
    first, again = ({k: [d.copy() for d in v] for k, v in tiles.items()} for _ in range(2))
    for found in (first, again):
        for start, deltas in found.items():
            remembered(start, start + 100, deltas)
    assert calls == [0, 100, 200, 200]
    for start, deltas in tiles.items():
        for before, one, two in zip(deltas, first[start], again[start], strict=True):
            np.testing.assert_array_equal(one, two)
            assert (one == before).sum() == 100 - len(range(start % 3, 100, 3))


@pytest.mark.parametrize(
    ("columns", "share"),
    [(256, 0.3), (256, 1.0), (256, 0.51), (63, 0.3), (64, 0.3), (1, 0.5), (4096, 0.01), (128, 0.0)],
)
def test_ranks_in_a_row_are_by_size_and_then_by_column(rng, columns, share):
    delta = np.round(rng.standard_normal((4096 // columns, columns)), 1).astype(np.float32)
    delta *= rng.random(delta.shape) < share
    places, ranks = _ranks(delta)
    order = np.argsort(np.abs(delta), axis=1, kind="stable")
    wanted = np.argsort(order, axis=1).reshape(-1)
    np.testing.assert_array_equal(ranks, wanted[places])
    assert len(set(places.tolist())) == len(places)
    assert set(np.flatnonzero(delta)) <= set(places.tolist())
