"""What else may lie, or lack, in a run's folder: it is one line, and nothing is undone for it."""

import errno
import os
import shutil

import pytest
from longcat_dora import (
    LocalRuntime,
    LongcatDoraError,
    RunConfig,
    SchedulerConfig,
    Task,
    check,
    read_events,
)
from longcat_dora.__main__ import main
from longcat_dora.testing import TabularTrainer, tabular_worker

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


def _run(folder, steps):
    config = RunConfig(
        folder=folder, max_steps=steps, scheduler=SMALL, save_every=2, segment_bytes=3000
    )
    trainer, tasks = TabularTrainer(learning_rate=0.3), (Task(f"n{n}", n % 8) for n in range(400))
    return LocalRuntime(config, factory=tabular_worker, trainer=trainer, tasks=tasks).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert _run(folder, 4) == 4
    return folder


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def _restored(run):
    return [event["version"] for event in read_events(run / "log") if event["kind"] == "restored"]


@pytest.mark.parametrize("left", ["no file", "a folder"])
def test_a_log_whose_last_file_is_lost_is_not_called_whole(run, left, capsys):
    (run / "log" / "events.jsonl").unlink()
    if left == "a folder":
        (run / "log" / "events.jsonl").mkdir()
    assert main(["check", str(run)]) == 1
    assert "the end is not judged: events.jsonl is not here" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["checkpoints", "log/lock", "log"])
def test_what_is_no_file_or_no_folder_is_one_line_and_nothing_is_undone(run, name):
    before = list(read_events(run / "log"))
    path = run / name
    path.rename(run / "aside")
    path.write_text("") if (run / "aside").is_dir() else path.mkdir()
    with pytest.raises(LongcatDoraError, match=rf"cannot use {path}: "):
        _run(run, 6)
    assert list(read_events(run / ("aside" if name == "log" else "log"))) == before


def test_checkpoints_that_cannot_be_read_are_not_taken_for_none(run, monkeypatch):
    def deny(folder):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    before = list(read_events(run / "log"))
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.iterdir", deny)
        with pytest.raises(LongcatDoraError, match=r"cannot use .*checkpoints: Permission denied"):
            _run(run, 6)
    assert list(read_events(run / "log")) == before


def test_what_else_is_called_step_is_no_checkpoint(run):
    for name in ("step-99999", "step-abc", "step-\N{SUPERSCRIPT TWO}", "step-", "000099"):
        (run / "checkpoints" / name).mkdir()
    assert _run(run, 5) == 5
    assert _restored(run) == [4]


def test_that_all_checkpoints_are_gone_is_said(run, caplog):
    shutil.rmtree(run / "checkpoints")
    assert _run(run, 2) == 2
    told = "no checkpoint that the log tells of is here, the oldest is 2: the run goes on from"
    assert caplog.text.count(told) == 1
    assert _restored(run) == [0]
    assert check(run / "log").is_clean
