"""Experts beside each other: who is shown, who is named, and what is left when one must stop."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from longcat_cli import beside, train
from longcat_cli.checks import broken_rules
from longcat_cli.display import Display
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import evaluate
from rich.console import Console
from side_stages import LONGEST_S, TooManyWords, asked, asked_after_the_merged, sides

HERE = Path(__file__).parent
EXPERTS = ["expert-clinic", "expert-library", "expert-shop"]


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", load_recipe("smoke"))


@pytest.fixture
def shown():
    """A display, and what it printed."""
    text = io.StringIO()
    return Display([], console=Console(file=text, force_terminal=False, width=200)), text


def run(folder, shown, *names, at_once=2):
    """Run stand-ins of those names; return who ended, in order."""
    ended, processes = {}, []

    def begin(name, process):
        assert process() is None  # shown before it is there: what it loads may take long
        processes.append(process)
        return shown[0].begin(name)

    def end(name, began, facts):
        ended[name] = facts
        shown[0].end(name, "ended")

    names = [f"expert-{name}" for name in names]
    try:
        beside.run_beside(folder, names, stages=sides, at_once=at_once, begin=begin, end=end)
    finally:
        folder.begun = [process() for process in processes]
    return ended


def test_stages_go_on_at_the_same_time_each_in_its_process(folder, shown, monkeypatch):
    monkeypatch.setattr("longcat_cli.display.PLAIN_EVERY_S", 0.0)
    ended = run(folder, shown, "patient", "quick")  # the first waits for the second
    assert ended == {"expert-quick": {"steps": 1}, "expert-patient": {"steps": 2}}
    assert len({os.getpid(), *folder.begun}) == 3
    lines = shown[1].getvalue().splitlines()
    begun = [line for line in lines if line.endswith(" ...")]
    assert begun == ["expert-patient ...", "expert-quick ..."]
    assert any(line.startswith("  expert-quick: done 50%  step 1") for line in lines)
    assert any(line.startswith("  expert-quick: doing little") for line in lines)


def test_no_more_go_on_than_were_asked_for(folder, shown):
    """In the other order the patient one would wait for ever."""
    assert list(run(folder, shown, "quick", "patient", at_once=1)) == [
        "expert-quick", "expert-patient",
    ]  # fmt: skip
    lines = shown[1].getvalue().splitlines()
    assert lines.index("expert-quick: ended") < lines.index("expert-patient ...")


def test_one_that_fails_is_named_and_the_other_keeps_what_it_has_done(folder, shown):
    with pytest.raises(UsageError, match="a task must have an end") as failed:
        run(folder, shown, "slow", "wrong")
    assert failed.value.__notes__ == ["expert-wrong"]
    assert "in wrong" in str(failed.value.__cause__)  # where it came up, in its process
    assert len(list(folder.path.glob("kept-*"))) == 1
    assert all(not _is_alive(process) for process in folder.begun)


def test_an_error_that_cannot_be_sent_is_told_in_words(folder, shown):
    with pytest.raises(beside.StageError) as failed:
        run(folder, shown, "wordy")
    assert failed.value.__notes__ == ["expert-wordy"]
    assert TooManyWords.__name__ in str(failed.value.__cause__)
    assert "no room left" in str(failed.value.__cause__)


def test_one_whose_process_dies_is_named_with_its_exit_code(folder, shown):
    with pytest.raises(beside.StageDied, match="exit code 7") as failed:
        run(folder, shown, "slow", "dead")
    assert failed.value.__notes__ == ["expert-dead"]
    assert all(not _is_alive(process) for process in folder.begun)


def test_one_that_was_told_to_stop_stops_the_run_as_ctrl_c_does(folder, shown):
    with pytest.raises(KeyboardInterrupt):
        run(folder, shown, "slow", "stopped")
    assert all(not _is_alive(process) for process in folder.begun)


TRAINS = """
from longcat_cli import main, processes, train
from side_stages import sides
train.stages_of = sides  # the processes are told of this function
train.together = lambda recipe: [["expert-slow", "expert-patient"]]
processes.PRELOADED = ()  # seconds, for stages that need none of it
main.run()
"""


def test_ctrl_c_is_one_line_and_what_had_ended_before_is_not_run_again(folder):
    for begun in (1, 2):
        command = [sys.executable, "-c", TRAINS, "train", "--resume", str(folder.path)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
            # Started in the background, it might ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:  # fmt: skip
            try:
                _until(lambda begun=begun: len(_slow(folder)) == begun
                       and folder.is_done("expert-patient"))  # fmt: skip
                process.send_signal(signal.SIGINT)
                output, errors = process.communicate(timeout=LONGEST_S)
            finally:
                process.kill()
        assert process.returncode == 130, errors
        assert errors.strip() == f"stopped; continue with: longcat train --resume {folder.path}"
        assert len(list(folder.path.glob("kept-*"))) == begun
        assert not folder.is_done("expert-slow")
        assert ("expert-patient: done before" in output) == (begun == 2)
        assert ("expert-patient ..." in output) == (begun == 1)
    assert not any(map(_is_alive, _slow(folder)))


BESIDE = """
import signal, sys
from pathlib import Path
from longcat_cli.beside import run_beside
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from side_stages import sides
if __name__ == "__main__":
    display = Display([])
    try:
        run_beside(RunFolder.open(Path(sys.argv[1])), ["expert-slow"] * 2, stages=sides, at_once=2,
                   begin=lambda name, process: display.begin(name), end=print)
    except KeyboardInterrupt:
        print("interrupted", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


def _beside(folder):
    """Two slow stages in a process that is not the tests': it is sent signals."""
    return subprocess.Popen(
        [sys.executable, "-c", BESIDE, str(folder.path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        preexec_fn=_heed_signals,
    )  # fmt: skip


def _heed_signals():
    """Started in the background or by nohup, a process might ignore some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def test_at_ctrl_c_both_keep_what_they_have_done(tmp_path):
    """Also at what else ends a process, for which nobody has said otherwise."""
    sent = {
        number: RunFolder.create(tmp_path / f"{number}", load_recipe("smoke"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    runs = {number: _beside(folder) for number, folder in sent.items()}
    try:
        for number, folder in sent.items():
            _until(lambda folder=folder: len(_slow(folder)) == 2)
            runs[number].send_signal(number)
        for number, folder in sent.items():
            output, _ = runs[number].communicate(timeout=LONGEST_S)
            assert output.splitlines()[-1] == "interrupted True"
            assert len(list(folder.path.glob("kept-*"))) == 2
            assert not any(map(_is_alive, _slow(folder)))
    finally:
        for process in runs.values():
            process.kill()
            process.communicate()


def test_no_stage_outlives_a_run_that_is_killed(folder):
    with _beside(folder) as process:
        try:
            _until(lambda: len(_slow(folder)) == 2)
        finally:
            process.kill()
    _until(lambda: not any(map(_is_alive, _slow(folder))))
    assert list(folder.path.glob("kept-*")) == []  # they did not just come to their end


@pytest.mark.parametrize(("changes", "expected"), [
    ((), [["grow"], ["cold_start"], EXPERTS, ["fuse"], ["evaluate"], ["report"]]),
    (("rl.experts_at_once=1",), [[name] for name in
                                 ["grow", "cold_start", *EXPERTS, "fuse", "evaluate", "report"]]),
])  # fmt: skip
def test_the_recipe_says_what_goes_on_beside_each_other(changes, expected):
    assert list(train.together(load_recipe("mini", list(changes)))) == expected


def test_where_experts_would_share_a_cluster_they_go_one_by_one(monkeypatch):
    assert load_recipe("mini").experts_at_once > 1
    assert load_recipe("mini", ["rl.runtime=ray"]).experts_at_once == 1
    assert load_recipe("mini", ["device=cuda"]).experts_at_once == 1
    wrong = load_recipe("mini", ["rl.runtime=ray", "rl.experts_at_once=2"])
    assert any("rl.experts_at_once must be 1 with rl.runtime='ray'" in line
               for line in broken_rules(wrong))  # fmt: skip


def test_models_are_asked_while_they_are_fused_and_not_again(folder, monkeypatch):
    """What fails meanwhile is asked again, and fails where it is seen."""
    monkeypatch.setattr(evaluate, "evaluate_cell", asked)
    told = Display([], console=Console(quiet=True))
    with evaluate.Evaluation(folder) as evaluation:
        evaluation.begin_ahead()
        _until(lambda: len(_asked(folder)) == 8)  # cold start and expert of each, at two levels
    assert {name.split("-")[0] for name in _asked(folder)} == {
        "cold_start", "expert:library", "expert:shop",
    }  # fmt: skip
    assert len(json.loads(folder.cells.read_text())) == 4  # of the library
    with pytest.raises(UsageError, match="the shop is closed"):
        evaluate.run(folder, told)  # the merged model's first attempt there
    for _ in range(4):
        with contextlib.suppress(UsageError):
            evaluate.run(folder, told)
    assert evaluate.run(folder, told) == {
        f"{kind}@{noise}": 0.5 for kind in ("cold_start", "experts", "merged", "fused")
        for noise in folder.recipe.evaluate.noise
    }  # fmt: skip
    ahead = [name for name in _asked(folder) if not name.startswith(("merged", "fused"))]
    times = Counter(name.rpartition("-")[0] for name in ahead)
    # A run that ends at an error may lose what was just being asked beside it.
    assert all(number == 1 or "-shop-" in cell for cell, number in times.items())
    assert all(number >= 2 or "-library-" in cell for cell, number in times.items())
    before = sorted(_asked(folder))
    monkeypatch.setattr(evaluate, "worker_pool", None)
    with evaluate.Evaluation(folder) as evaluation:  # of a run that goes on: nothing is left to ask
        evaluation.begin_ahead()
    assert sorted(_asked(folder)) == before


def test_what_is_still_being_asked_keeps_nobody_waiting(folder, monkeypatch):
    """It is waited for once, beside the models that were fused meanwhile, and counted once."""
    monkeypatch.setattr(evaluate, "evaluate_cell", asked_after_the_merged)
    shown = []
    told = Display([], console=Console(quiet=True))
    monkeypatch.setattr(told, "update", lambda **values: shown.append(values))
    told.begin("evaluate")
    with evaluate.Evaluation(folder) as evaluation:
        evaluation.begin_ahead()
        _until(lambda: len(_asked(folder)) == 1)  # and one more is in its hands
        evaluation.run(told)
    assert len(_asked(folder)) == 16
    assert all(name.endswith("-0") for name in _asked(folder))
    assert shown[-1] == {"done": 1.0, "cells": 16}
    assert len(json.loads((folder.path / "evaluation.json").read_text())) == 16
    assert len(json.loads(folder.cells.read_text())) == 16


def test_with_one_process_for_evaluations_nothing_is_asked_ahead(folder, monkeypatch):
    folder.recipe = load_recipe("smoke", ["evaluate.processes=1"])
    monkeypatch.setattr(evaluate, "worker_pool", None)
    with evaluate.Evaluation(folder) as evaluation:
        evaluation.begin_ahead()
    assert not folder.cells.exists()


def _asked(folder):
    return [path.name for path in (folder.path / "asked").glob("*")]


def _slow(folder):
    return [int(path.name.removeprefix("slow-")) for path in folder.path.glob("slow-*")]


def _until(holds):
    deadline = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
