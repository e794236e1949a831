"""What a person may give that is wrong: each is one line, and nothing is lost in silence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from longcat_dora import (
    EventLog,
    LocalRuntime,
    LongcatDoraError,
    RolloutManager,
    RunConfig,
    SchedulerConfig,
    Task,
    plan,
)
from longcat_dora.__main__ import main
from longcat_dora.tasks import from_jsonl
from longcat_dora.testing import TabularTrainer, tabular_worker

CONFIG = SchedulerConfig(groups_per_batch=2, group_size=2, soft_staleness=1, max_running=8)


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "3", None, 2.5, []])
def test_a_whole_number_is_one(tmp_path, value):
    for name in ("max_steps", "save_every", "num_controllers", "seed", "max_controller_restarts"):
        with pytest.raises(ValueError, match=rf"{name} must be .*whole number, got"):
            RunConfig(**{"folder": tmp_path, "max_steps": 1, name: value})
    for name in ("groups_per_batch", "hard_staleness", "max_attempts"):
        with pytest.raises(ValueError, match=rf"{name} must be .*whole number, got"):
            SchedulerConfig(**{name: value})


@pytest.mark.parametrize("value", [math.nan, True, "3", None, []])
def test_seconds_and_shares_are_numbers(tmp_path, value):
    for name in ("rollout_deadline_s", "kill_after_s", "max_seconds"):
        with pytest.raises(ValueError, match=f"{name} must be a number, got"):
            RunConfig(**{"folder": tmp_path, "max_steps": 1, name: value})
    with pytest.raises(ValueError, match="soft_staleness must be a number, got"):
        SchedulerConfig(soft_staleness=value)


@pytest.mark.parametrize("quotas", [{"a": math.nan}, {"a": math.inf}, {"a": "x"}, {"a": 0}, {3: 1}])
def test_quotas_are_weights_by_domain(quotas):
    with pytest.raises(ValueError, match="quota"):
        SchedulerConfig(quotas=quotas)
    with pytest.raises(ValueError, match="quotas must be a mapping"):
        SchedulerConfig(quotas=list(quotas))


@pytest.mark.parametrize("name", ["folder", "scheduler", "sync_commits"])
def test_a_field_that_is_something_else_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        RunConfig(**{"folder": "x", "max_steps": 1, name: 3})


def test_a_folder_is_named_and_may_be_at_home(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="folder must be a path, got ''"):
        RunConfig(folder="", max_steps=1)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunConfig(folder="~/runs", max_steps=1).folder == tmp_path / "runs"


def test_a_class_for_a_trainer_and_a_path_for_a_config_are_named(tmp_path):
    given = {"factory": tabular_worker, "trainer": TabularTrainer(), "tasks": [Task("a", 1)]}
    with pytest.raises(TypeError, match="config must be a RunConfig, got 'runs/x'"):
        LocalRuntime("runs/x", **given)
    config = RunConfig(folder=tmp_path / ("x" * 300), max_steps=1)
    with pytest.raises(TypeError, match="must be a trainer, got the class TabularTrainer: call it"):
        LocalRuntime(config, **{**given, "trainer": TabularTrainer})
    with pytest.raises(LongcatDoraError, match=r"cannot use .*log: File name too long"):
        LocalRuntime(config, **given).run()


def test_numbers_of_numpy_will_do_and_are_written_down(tmp_path):
    config = RunConfig(folder=tmp_path, max_steps=np.int64(3), max_seconds=np.float32(2))
    assert type(config.max_steps) is int
    assert type(config.max_seconds) is float
    scheduler = SchedulerConfig(soft_staleness=np.float32(1), hard_staleness=np.int32(2))
    _manager(tmp_path, [], scheduler).close()


def _manager(folder, tasks, scheduler=CONFIG):
    return RolloutManager(folder, scheduler, tasks=tasks)


def test_none_among_tasks_is_not_their_end(tmp_path):
    manager = _manager(tmp_path, [Task("a", 1), None, Task("b", 1)])
    with pytest.raises(LongcatDoraError, match=r"must be longcat_dora\.Task, got NoneType"):
        manager.feed()
    manager.close()


@pytest.mark.parametrize("tasks", [[], {}, {"a": [], "b": iter(())}, (t for t in ())])
def test_no_task_at_all_is_an_error(tmp_path, tasks):
    with pytest.raises(LongcatDoraError, match="must hold at least one task, got none"):  # noqa: PT012
        manager = _manager(tmp_path, tasks)
        try:
            manager.feed()
        finally:
            manager.close()


def test_a_domain_without_a_task_is_told(tmp_path, caplog):
    manager = _manager(tmp_path, {"math": [Task("a", 1)], "code": []})
    manager.feed()
    manager.close()
    assert caplog.messages == ["domain 'code' holds no task"]
    again = _manager(tmp_path, [])  # nothing more comes, and what was there goes on
    again.feed()
    assert not again.is_drained
    again.close()


@pytest.mark.parametrize("task", [Task(None, 1), Task(b"x", 1), Task(("a", 1), 1), Task("a", 1, 7)])
def test_ids_and_domains_are_text(tmp_path, task):
    manager = _manager(tmp_path, [task])
    with pytest.raises(LongcatDoraError, match="must be text, got"):
        manager.feed()
    manager.close()
    with pytest.raises(TypeError, match="keys that are text, got None"):
        _manager(tmp_path / "x", {None: [Task("a", 1)]})


def test_a_payload_that_is_nested_too_deeply_is_not_kept(tmp_path):
    payload: list = []
    for _ in range(3000):
        payload = [payload]
    manager = _manager(tmp_path, [Task("a", payload)])
    manager.feed()
    manager.close()


def test_a_file_of_tasks_of_another_editor(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n{"id": "b"}\r\n')
    assert [task.id for task in from_jsonl(file)] == ["a", "b"]
    file.write_bytes('{"id": "ä"}\n'.encode("latin-1"))
    with pytest.raises(LongcatDoraError, match=r"t\.jsonl must be UTF-8"):
        list(from_jsonl(file))


@pytest.mark.parametrize("status", ["", "{", "null", "[]", "{}", '{"at": "x"}', "\ud800"])
def test_a_status_that_no_run_wrote_is_named(tmp_path, capsys, status):
    (tmp_path / "status.json").write_bytes(status.encode(errors="surrogatepass"))
    assert main(["why", str(tmp_path)]) == 2
    assert "status.json is not what a run wrote" in capsys.readouterr().err


def _log(folder):
    log = EventLog(folder)
    for version in range(3):
        log.append({"kind": "published", "version": version})
    log.close()
    return folder / "events.jsonl"


def test_what_cannot_be_archived_or_repaired_is_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.jsonl").touch()
    assert main(["archive", str(tmp_path / "empty")]) == 0
    file = _log(tmp_path / "log")
    assert main(["repair", str(file)]) == 2
    assert "is a file" in capsys.readouterr().err
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"x\n", *lines[3:]]))
    before = file.read_bytes()

    def nobody(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert main(["repair", str(file.parent)]) == 1
    assert "nothing was changed" in capsys.readouterr().out
    assert file.read_bytes() == before


@pytest.mark.parametrize(("name", "told"), [
    ("os:sep", "must be a function"), ("json:loads", "without arguments"), ("..x:y", "relative"),
    (":", "Empty"), ("os:getcwd", "returned str, which lacks"),
])  # fmt: skip
def test_who_builds_no_trainer_is_said(tmp_path, capsys, name, told):
    _log(tmp_path)
    assert main(["replay", str(tmp_path), "--trainer", name]) == 2
    assert told in capsys.readouterr().err


def test_a_plan_that_could_never_end_is_refused():
    for train_s in (math.nan, math.inf, 0):
        with pytest.raises(ValueError, match="need positive latencies"):
            plan(CONFIG, [1.0], train_s=train_s)
    soft = SchedulerConfig(soft_staleness=10**6, hard_staleness=10**6)
    with pytest.raises(ValueError, match="soft_staleness must be at most 16"):
        plan(soft, [1.0], train_s=1.0)


@pytest.mark.parametrize("metrics", ["x", "null", "{}", json.dumps({"elapsed_s": None})])
def test_metrics_that_no_run_wrote_are_named(tmp_path, capsys, metrics):
    from longcat_dora.__main__ import _train_s

    (tmp_path / "metrics.jsonl").write_text(metrics)
    with pytest.raises(LongcatDoraError, match=r"metrics\.jsonl, line 1, is not what a run wrote"):
        _train_s(tmp_path)
