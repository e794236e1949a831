"""Tasks from files, metrics to trackers, evaluations beside the training, checkpoints that are kept."""

import ast
import itertools
import json
import sys
import threading
import time
import types
from pathlib import Path

import longcat_dora
import pytest
from longcat_dora import (
    LocalRuntime,
    LongcatDoraError,
    Progress,
    RunConfig,
    SchedulerConfig,
    Task,
    read_events,
)
from longcat_dora.tasks import from_dataset, from_jsonl, from_parquet
from longcat_dora.testing import TabularTrainer, tabular_worker
from longcat_dora.trackers import each, trackio, wandb

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


def _run(folder, steps, tasks=None, **options):
    config = {name: options.pop(name) for name in list(options) if name in RunConfig.__slots__}
    tasks = tasks or (Task(f"n{n}", n % 8) for n in range(4000))
    return LocalRuntime(
        RunConfig(folder=folder, max_steps=steps, scheduler=SMALL, **config),
        factory=tabular_worker, trainer=TabularTrainer(learning_rate=0.02), tasks=tasks, **options,
    ).run()  # fmt: skip


def test_tasks_of_a_file_are_tried_once_each_over_two_runs(tmp_path):
    file = tmp_path / "train.jsonl"
    rows = [{"id": f"q{n}", "question": n % 8, "domain": "d"} for n in range(300)]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for steps in (3, 6):
        _run(tmp_path / "run", steps, from_jsonl(file, payload_field="question"))
    admitted = [e["task"] for e in read_events(tmp_path / "run" / "log") if e["kind"] == "admitted"]
    assert admitted == [f"q{n}" for n in range(len(admitted))]


def test_a_row_may_say_how_often_it_is_tried(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"attempts": 3}\n{"tries": 5}\n')
    assert [task.attempts for task in from_jsonl(file)] == [None, None]  # not asked for
    found = from_jsonl(file, attempts_field="tries")
    assert [task.attempts for task in found] == [None, 5]


def test_a_file_that_is_wrong_names_its_line(tmp_path):
    file = tmp_path / "train.jsonl"
    for text, told in [
        ('{"id": 1}\n{"id"', r"train\.jsonl, line 2"), ("[1]\n", "train:0 must be a dictionary"),
        ('{"id": 1}\n{"id": 1}\n', "an earlier row has"), ("{}\n", "must have 'question'"),
    ]:  # fmt: skip
        file.write_text(text)
        field = "question" if text == "{}\n" else None
        with pytest.raises(LongcatDoraError, match=told):
            list(from_jsonl(file, payload_field=field))
    with pytest.raises(LongcatDoraError, match="cannot read"):
        list(from_jsonl(tmp_path / "absent.jsonl"))


def test_rows_of_a_dataset_have_ids_of_their_own():
    assert [t.id for t in from_dataset([{"q": 1}, {"q": 2}])] == ["row:0", "row:1"]


def test_tasks_of_a_parquet_file(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"id": ["a", "b"], "q": [1, 2]}), tmp_path / "t.parquet")
    assert [(t.id, t.payload) for t in from_parquet(tmp_path / "t.parquet", payload_field="q")] == [
        ("a", 1), ("b", 2),
    ]  # fmt: skip


def test_trackers_are_given_every_number(monkeypatch):
    logged = []
    run = types.SimpleNamespace(log=lambda metrics, step: logged.append((step, metrics)))
    library = types.SimpleNamespace(init=lambda **options: options == {"project": "p"} and run)
    for name, tracker in (("wandb", wandb), ("trackio", trackio)):
        monkeypatch.setitem(sys.modules, name, library)
        each(tracker(project="p"))(Progress(7, {"reward": 0.5, "staleness": {0: 8}, "x": "y"}, []))
    assert logged == [(7, {"reward": 0.5, "staleness/0": 8.0})] * 2
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"longcat-dora\[wandb\]"):
        wandb()


def test_evaluations_run_beside_the_training_on_their_versions_weights(tmp_path):
    seen, own = [], threading.current_thread()

    def evaluate(version, weights):
        assert threading.current_thread() is not own
        time.sleep(0.05)
        seen.append((version, json.loads(bytes(weights))))
        return {"score": version / 10}

    _run(tmp_path, 25, evaluate=evaluate, evaluate_every=5)
    versions = [version for version, _ in seen]
    assert versions[0] == 5
    assert versions[-1] == 25
    assert all(a != b for (_, a), (_, b) in itertools.pairwise(seen))
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": v, "score": v / 10} for v in versions]


def test_an_evaluation_that_raises_is_the_runs_error(tmp_path):
    def evaluate(version, weights):
        raise ZeroDivisionError("no score")

    with pytest.raises(ZeroDivisionError, match="no score"):
        _run(tmp_path, 30, evaluate=evaluate, evaluate_every=2)


def test_so_many_checkpoints_are_kept_as_are_asked_for(tmp_path):
    _run(tmp_path, 9, save_every=1, keep_checkpoints=4)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    kept = [f"step-00000{n}" for n in range(6, 10)]
    assert names == [f".{name}.json" for name in kept] + kept
    saved = [e for e in read_events(tmp_path / "log") if e["kind"] == "saved"]
    assert saved[-1]["kept"] == [6, 7, 8, 9]


ORDER = ["_types", "_log", "_rollout", "_books", "_runtime"]


def test_imports_point_one_way():
    """A wing imports those before it alone; doors may import all, and no wing imports a door."""
    root = Path(longcat_dora.__file__).parent
    for path in root.glob("_*/*.py"):
        wing = ORDER.index(path.parent.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.module or "" if isinstance(node, ast.ImportFrom) and not node.level else ""
            if name.startswith("longcat_dora"):
                part = [*name.split("."), "__init__"][1]
                assert part in ORDER[: wing + 1], f"{path.name} must not import {name}"


def test_the_checker_shares_no_code_with_what_it_checks():
    root = Path(longcat_dora.__file__).parent
    source = (root / "_log" / "check.py").read_text(encoding="utf-8")
    assert "_books" not in source
