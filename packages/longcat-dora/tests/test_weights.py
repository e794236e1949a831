"""Weights as arrays, one by one, and batches as arrays.

What was given is what arrives, and only once in memory.
"""

import array
import collections
import gc
import json
import threading

import numpy as np
import pytest
from longcat_dora import (
    LocalRuntime,
    LongcatDoraError,
    RunConfig,
    SchedulerConfig,
    Segment,
    Task,
    Trajectory,
    Worker,
    check,
    read_events,
    replay,
)
from longcat_dora._log.tensors import (
    CopiedWeights,
    Digest,
    digest_of,
    digested,
    restored,
    shards_of,
    snapshot,
)
from longcat_dora._runtime.weights import SharedWeights, WeightsPool, arrays_in
from longcat_dora.testing import TabularEngine, TabularTrainer, guess

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


class ShardedTrainer(TabularTrainer):
    """Gives its table row by row, and notes how many rows are there at once, and in which thread."""

    batch_format = "lists"

    def __init__(self):
        super().__init__(learning_rate=0.1)
        self.most_alive, self.threads, self.kinds = 0, set(), collections.Counter()

    def weights(self):
        alive = set()
        for number, row in enumerate(self.table):
            gc.collect(0)  # a whole one takes a second in a process that has loaded much
            self.most_alive = max(self.most_alive, len(alive))
            self.threads.add(threading.current_thread().name)
            shard = _Row("d", row)
            alive.add(number)
            shard.on_end = lambda number=number: alive.discard(number)
            yield f"row {number}", shard

    def train(self, batch):
        for trajectory in batch:
            self.kinds[type(trajectory.segments[0].token_ids).__name__] += 1
        return super().train(batch)

    def save(self, folder):
        (folder / "table.json").write_text(json.dumps(self.table))


class _Row(array.array):
    def __del__(self):
        self.on_end()


class ShardedEngine(TabularEngine):
    """Takes what `ShardedTrainer` gives."""

    def load_weights(self, version, weights):
        rows = [weights[f"row {number}"] for number in range(len(weights))]
        assert all(row.readonly and row.format == "d" and row.shape == (8,) for row in rows)
        super().load_weights(version, json.dumps([row.tolist() for row in rows]).encode())


def sharded_worker():
    return Worker(engine=ShardedEngine(), rollout=guess)


def _run(folder, trainer, factory=sharded_worker, **options):
    tasks = (Task(f"n{n}", n % 8) for n in range(4000))
    config = RunConfig(folder=folder, max_steps=12, scheduler=SMALL, evaluate_every=3)
    return LocalRuntime(config, factory=factory, trainer=trainer, tasks=tasks, **options).run()


def test_weights_leave_a_trainer_array_by_array_and_arrive_as_they_were(tmp_path, importable):
    trainer, seen = ShardedTrainer(), {}

    def evaluate(version, weights):
        seen[version] = [row.tolist() for row in weights.values()]
        return {}

    assert _run(tmp_path, trainer, evaluate=evaluate) == 12
    assert trainer.most_alive <= 2  # the one that is copied, and the one before it
    assert trainer.threads == {"trainer_0"}
    assert seen[12] == trainer.table
    assert seen[3] != seen[12]
    assert check(tmp_path / "log").is_clean
    recorded = [e for e in read_events(tmp_path / "log") if e["kind"] == "weights"]
    assert recorded[-1]["digest"] == digest_of(trainer.weights())
    assert all(step.is_exact for step in replay(tmp_path / "log", ShardedTrainer()))


def test_a_trainer_that_asks_for_arrays_is_given_arrays_and_learns_the_same(tmp_path, importable):
    np = pytest.importorskip("numpy")
    trainer = ShardedTrainer()
    trainer.batch_format = "numpy"
    _run(tmp_path, trainer)
    assert set(trainer.kinds) == {"ndarray"}
    again, lists = ShardedTrainer(), ShardedTrainer()
    again.batch_format = "numpy"
    for one in (again, lists):
        assert all(step.is_exact for step in replay(tmp_path / "log", one))
    assert set(lists.kinds) == {"list"}
    assert np.array_equal(again.table, lists.table)


@pytest.mark.parametrize(("batch_format", "told"), [("arrow", "lists"), (None, "lists")])
def test_a_batch_format_that_is_unknown_is_refused(tmp_path, batch_format, told):
    trainer = ShardedTrainer()
    trainer.batch_format = batch_format
    with pytest.raises(TypeError, match=f'must be "{told}" or "numpy", got'):
        _run(tmp_path, trainer)


def test_a_trajectory_reads_back_as_arrays_as_it_does_as_lists():
    np = pytest.importorskip("numpy")
    mask = [False, False, True, True, False, True]
    segments = [
        Segment([*range(6)], mask, [-0.5 * m for m in mask], [(3, 2)], [(4, "stop"), (6, "length")]),
        Segment([7], [True], [-1.0]), Segment([8, 9], [False, False], [0.0, 0.0]),
    ]  # fmt: skip
    trajectory = Trajectory("t", "g", "task", "d", 1, segments, 0.5, {"a": 1})
    data = trajectory.to_bytes()
    arrays = Trajectory.from_bytes(data, as_arrays=True)
    assert Trajectory.from_bytes(data) == trajectory
    assert (arrays.num_sampled, arrays.num_tokens) == (4, 9) == (
        trajectory.num_sampled, trajectory.num_tokens,
    )  # fmt: skip
    for one, other in zip(arrays.segments, segments, strict=True):
        assert (one.token_ids.dtype, one.loss_mask.dtype, one.log_probs.dtype) == (
            np.int32, np.bool_, np.float32,
        )  # fmt: skip
        assert one.token_ids.flags.aligned
        assert one.token_ids.tolist() == other.token_ids
        assert one.loss_mask.tolist() == other.loss_mask
        assert one.log_probs.tolist() == other.log_probs
        assert (one.moves, one.ends) == (other.moves, other.ends)
    assert arrays.to_bytes() == data
    masked = [t.masked_before(2).segments[0].loss_mask for t in (arrays, trajectory)]
    assert masked[0].tolist() == masked[1] == [False, False, False, True, False, True]
    assert arrays.segments[0].loss_mask.tolist() == mask


def _tensors(torch):
    return {
        "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(), "half": torch.ones(5).bfloat16(),
        "scalar": torch.tensor(7), "none": torch.zeros(0, 3), "grad": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip


def test_tensors_arrays_and_buffers_arrive_as_what_they_were():
    np, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    given = {**_tensors(torch), "numpy": np.arange(6.0).reshape(2, 3).T, "flag": np.array(True),
             "buffer": array.array("h", [1, -2, 3])}  # fmt: skip
    shared = SharedWeights()
    digest = Digest()
    shared.write_arrays(digested(shards_of(given.items()), digest))
    assert digest.close() == digest_of(given)
    found = arrays_in(memoryview(bytes(shared._memory)), shared.forms)
    copied = CopiedWeights.of(shards_of(given)).arrays()
    for arrays in (found, copied, snapshot(given)):
        assert list(arrays) == list(given)
        for name, value in _tensors(torch).items():
            assert arrays[name].dtype == value.dtype
            assert torch.equal(arrays[name], value)
        assert np.array_equal(arrays["numpy"], given["numpy"])
        assert (arrays["flag"].shape, bool(arrays["flag"])) == ((), True)
        assert arrays["buffer"].tolist() == [1, -2, 3]


def test_every_bit_name_shape_and_type_counts_for_the_digest():
    np = pytest.importorskip("numpy")
    base = {"a": np.zeros(4, np.float32), "b": np.ones(2)}
    others = [
        {"a": np.zeros(4, np.float32)}, {**base, "b": np.ones(2) * 2}, {"b": base["b"], "a": base["a"]},
        {**base, "a": np.zeros((2, 2), np.float32)}, {**base, "a": np.zeros(4, np.int32)},
        {"c": base["a"], "b": base["b"]},
    ]  # fmt: skip
    digests = [digest_of(weights) for weights in [base, *others]]
    assert len(set(digests)) == len(digests)
    assert digest_of(dict(base)) == digests[0]


def test_a_snapshot_is_not_changed_by_later_steps():
    np = pytest.importorskip("numpy")
    live = np.zeros(3)
    kept = snapshot({"a": live})
    live += 1
    assert kept["a"].tolist() == [0, 0, 0]
    assert snapshot(b"xy") == b"xy"


class GivesNonsense(TabularTrainer):
    def __init__(self, weights):
        super().__init__()
        self.given = weights

    def weights(self):
        return self.given


def _breaks():
    yield "a", array.array("d", [1.0])
    raise ZeroDivisionError("no shard")


@pytest.mark.parametrize(("weights", "error", "told"), [
    (None, LongcatDoraError, "bytes or named arrays, at step 0.*got None"),
    ({}, LongcatDoraError, "must hold an array, and hold none"),
    (b"", LongcatDoraError, "must hold a byte"),
    ([("a", array.array("d", [1.0]))] * 2, LongcatDoraError, "'a' comes twice"),
    ({"a": [1.0, 2.0]}, LongcatDoraError, "'a' must be an array, got list"),
    ({"a": np.array([None])}, LongcatDoraError, "'a' must be an array, got ndarray: "),
    ({"a": memoryview(b"xyz")[::2]}, LongcatDoraError, "'a' must be an array, got memoryview: "),
    ([1, 2], LongcatDoraError, "pairs of a name and an array, got 1"),
    (_breaks(), ZeroDivisionError, "no shard"),
])  # fmt: skip
def test_weights_that_are_none_end_the_run_and_say_so(tmp_path, weights, error, told):
    with pytest.raises(error, match=told):
        _run(tmp_path, GivesNonsense(weights))


def test_memory_of_arrays_is_used_again_when_nobody_reads_it():
    pool, reader = WeightsPool(), object()
    first = pool.publish_arrays(shards_of({"a": array.array("d", range(100))}))
    first.users.add(reader)
    second = pool.publish_arrays(shards_of({"a": array.array("d", range(100))}))
    assert second is not first
    pool.release(reader)
    third = pool.publish_arrays(shards_of({"b": array.array("d", range(1000)), "c": b"xyz"}))
    assert third is first
    assert [form.name for form in third.forms] == ["b", "c"]
    found = arrays_in(memoryview(bytes(third._memory)), third.forms)
    assert found["b"].tolist() == [*range(1000)]
    assert bytes(found["c"]) == b"xyz"


def test_a_form_without_its_library_is_an_import_error(monkeypatch):
    import sys

    np = pytest.importorskip("numpy")
    (shard,) = shards_of({"a": np.ones(2)})
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError):
        restored(shard.form, shard.data)
