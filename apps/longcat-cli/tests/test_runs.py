"""Runs that lie side by side: which is the newest, what is listed, and how two compare."""

import errno
import json
import subprocess
import sys

import pytest
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder, chosen_run, newest_run
from longcat_cli.recipe_file import load_recipe


def _run(path, *, at, changes=(), is_trained=True, rates=None):
    folder = RunFolder.create(path, load_recipe("smoke", changes))
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "created": at}))
    if is_trained:
        folder.fused.mkdir()
        (folder.fused / "config.json").write_text("{}")
    if rates:
        folder.mark_done("evaluate", {"seconds": 1.0, **rates})
    return folder


def test_the_newest_run_is_the_one_that_was_begun_last_whatever_its_name(tmp_path):
    with pytest.raises(UsageError, match="a trained model must be in"):
        newest_run(tmp_path)
    _run(tmp_path / "short", at=1.0)
    _run(tmp_path / "20261128-101500", at=3.0)
    _run(tmp_path / "a", at=2.0)
    _run(tmp_path / "z", at=4.0, is_trained=False)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "run.json").write_text('{"format": 0}')  # another version's
    assert newest_run(tmp_path).path.name == "20261128-101500"


def test_where_no_run_is_named_it_is_said_which_one_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _run(tmp_path / "runs" / "one", at=1.0)
    assert chosen_run(tmp_path / "runs" / "one").path.name == "one"
    assert capsys.readouterr() == ("", "")
    assert chosen_run(None).path.name == "one"
    assert capsys.readouterr() == ("", "newest run: runs/one\n")


def test_runs_are_compared_under_their_names(longcat, tmp_path):
    one = _run(tmp_path / "one", at=1.0, rates={"fused@0.0": 0.25})
    two = _run(tmp_path / "a longer name", at=2.0, changes=["rl.steps=7", "noise.levels=[0.5]"])
    lines = longcat("runs", "compare", one.path, two.path).stdout.splitlines()
    column = lines[0].index(str(two.path))
    assert lines[0].split() == [str(one.path), *str(two.path).split()]
    told = {line.split()[0]: (line.split()[1], line[column:]) for line in lines[1:]}
    assert told["rl.steps"] == ("4", "7")
    assert told["noise.levels"][1] == "[0.5]"
    assert told["fused@0.0"] == ("25.0%", "-")


def test_a_folder_of_runs_that_is_not_there_is_a_mistake(longcat, tmp_path, monkeypatch):
    done = longcat("runs", "list", "--root", tmp_path / "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--root must be the folder that holds the runs" in done.stderr
    monkeypatch.chdir(tmp_path)  # where nothing was run yet, there is no runs/
    assert "no run in runs/; begin one with" in longcat("runs", "list").stdout


def test_a_list_of_runs_takes_no_torch(tmp_path):
    _run(tmp_path / "one", at=1.0)
    code = f"""if True:
        import sys, longcat_cli.main
        for words in (["list", "--root", {str(tmp_path)!r}], ["show", {str(tmp_path / "one")!r}]):
            try:
                longcat_cli.main.app(["runs", *words])
            except SystemExit:
                print("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line in ("True", "False")] == ["False"] * 2


def test_a_run_that_is_done_has_nothing_to_do(longcat, tmp_path, monkeypatch):
    folder = _run(tmp_path / "one", at=1.0)
    monkeypatch.setattr("longcat_cli.checks._pace", lambda recipe: pytest.fail("measured"))
    for stage in folder.recipe.stages:
        folder.mark_done(stage, {"seconds": 1.0})
    done = longcat("train", "--resume", folder.path, "--dry-run")
    assert done.stdout.splitlines()[-1] == "nothing to do: all is done"


def test_a_run_goes_on_with_its_own_recipe(longcat, tmp_path):
    folder = _run(tmp_path / "one", at=1.0)
    for recipe in ("mini", "smoke"):  # the first is what it would be without the option
        done = longcat("train", "--resume", folder.path, "--recipe", recipe, "--dry-run")
        assert done.returncode == 2
        assert "--resume continues the recipe of its run" in done.stderr


@pytest.mark.parametrize(
    ("words", "then"),
    [
        (["runs", "list"], "run it again"),
        (["train"], "continue with --resume. Nothing done is lost"),
    ],
)
def test_a_full_disk_offers_what_there_is(longcat, monkeypatch, words, then):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("longcat_cli.main.app", full)
    done = longcat(*words)
    assert (done.returncode, done.stderr) == (
        2,
        f"longcat: the disk is full; make room, then {then}\n",
    )
