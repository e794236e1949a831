"""How a run begins, goes on or is refused: what is done, what cannot fit, and Ctrl-C before it."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from longcat_cli import checks, start
from longcat_cli.checks import _parameters, check_recipe, estimate, room_needed
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages.cold_start import model_config
from longcat_cli.start import begin, plan, resumed
from longcat_moe import LongcatForCausalLM, on_meta

LONGEST_S = 120
"""Until a process has ended, on the busiest machine."""
SMALL = 15_000_000_000


@pytest.fixture
def machine(monkeypatch):
    """One with 15 GB of memory, and as much disk as anybody wants."""
    monkeypatch.setattr(checks, "memory_bytes", lambda: SMALL)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**18))


@pytest.fixture
def done(tmp_path):
    """A run whose two experts are done, and nothing after them."""
    folder = RunFolder.create(tmp_path / "run", load_recipe("smoke"))
    for stage in ("grow", "cold_start", "expert-library", "expert-shop"):
        folder.mark_done(stage, {"seconds": 1.0})
    return folder


@pytest.mark.parametrize("undone", [None, "expert-library"])
def test_steps_of_experts_that_are_done_do_not_change(done, undone):
    """It was told as changed and written down, and no expert took a step more."""
    if undone:
        (done.path / "stages" / f"{undone}.json").unlink()
    said = []
    with pytest.raises(UsageError, match=r"rl\.steps can be changed only before expert-.* is done"):
        resumed(done.path, ["rl.steps=9"], echo=said.append, dry_run=False)
    assert (said, RunFolder.open(done.path).recipe) == ([], done.recipe)


@pytest.mark.parametrize("change", ["rl.experts_at_once=1", "rl.save_every=1"])
def test_what_changes_no_expert_may_change_when_they_are_done(done, change):
    resumed(done.path, [change], echo=print, dry_run=False)


@pytest.mark.parametrize("change", ["noise.max_gap=0.2", "rl.epochs=1", "rl.num_controllers=2"])
def test_nothing_else_of_experts_that_are_done_changes(done, change):
    with pytest.raises(UsageError, match="only before expert-library"):
        resumed(done.path, [change], echo=print, dry_run=False)


def test_nothing_is_told_as_changed_if_one_change_is_refused(done):
    said = []
    with pytest.raises(UsageError, match="only before expert-library"):
        resumed(done.path, ["fuse.steps=9", "rl.epochs=1"], echo=said.append, dry_run=False)
    # `rl` is before `fuse`; the other way about it was told before.
    with pytest.raises(UsageError, match="only before grow"):
        resumed(done.path, ["groups={'a': ['shop']}", "seed=3"], echo=said.append, dry_run=False)
    done.mark_done("evaluate", {"seconds": 1.0})
    done.mark_done("fuse", {"seconds": 1.0})
    with pytest.raises(UsageError, match="only before evaluate"):
        resumed(done.path, ["device=cpu", "rl.save_every=1", "evaluate.tasks=3"],
                echo=said.append, dry_run=False)  # fmt: skip
    assert said == []


@pytest.mark.parametrize(
    ("change", "to_blame"),
    [
        ("rl.num_controllers=5000", "rl.num_controllers must fit into 15.0 GB of memory, got 5000"),
        ("grow.train_tasks=1000000000", "grow.train_tasks must fit into 15.0 GB"),
        ("evaluate.processes=100000", "evaluate.processes must be at most 1024, got 100000"),
        ("model.num_layers=1000", "model.num_layers must fit into 15.0 GB of memory, got 1000"),
        ("model.n_routed_experts=60000", "model.n_routed_experts must fit into 15.0 GB"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.usefixtures("machine")
def test_what_cannot_fit_is_refused_by_its_key(tmp_path, monkeypatch, change, to_blame, dry_run):
    """It began without a word, or was built for minutes first."""
    monkeypatch.setattr(checks, "_builders", lambda recipe: pytest.fail("a model is built"))
    with pytest.raises(UsageError) as refused:
        begin("smoke", [change], tmp_path / "run", dry_run=dry_run)
    assert str(refused.value).startswith(to_blame)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("machine")
def test_where_no_key_is_to_blame_the_whole_is(monkeypatch):
    monkeypatch.setattr(checks, "memory_bytes", lambda: 1_000_000_000)
    with pytest.raises(UsageError, match=r"the run must fit into 1\.0 GB of memory, got one that"):
        check_recipe(load_recipe("smoke"))


@pytest.mark.usefixtures("machine")
def test_what_may_not_fit_is_a_warning_and_begins(longcat, tmp_path, monkeypatch):
    """Between once and twice of what there is: an estimate may be wrong by as much."""
    monkeypatch.setattr(checks, "memory_bytes", lambda: 1_500_000_000)
    monkeypatch.setattr(checks, "_pace", lambda recipe: (1_000_000, 1e-4))
    said = "warning: the run needs about 2.1 GB of memory, this machine has 1.5 GB"
    assert list(plan(begin("smoke", [], tmp_path / "run", dry_run=True)))[-1] == said
    monkeypatch.setattr("longcat_cli.train.train", lambda folder: {})
    told = longcat("train", "--recipe", "smoke", "--out", tmp_path / "run")
    assert told.stderr.splitlines()[0] == f"longcat: {said}"


def test_what_is_asked_of_a_ray_cluster_is_not_asked_of_this_machine():
    changes = ["rl.num_controllers=5000", "rl.runtime=ray", "rl.experts_at_once=1"]
    there = room_needed(load_recipe("smoke", [*changes, "rl.ray_address=there:6379"]))
    assert there.memory_bytes < SMALL < room_needed(load_recipe("smoke", changes)).memory_bytes


def test_tasks_and_processes_of_the_evaluation_are_counted():
    def needs(*changes):
        return room_needed(load_recipe("smoke", ["rl.experts_at_once=1", *changes]))

    assert needs("grow.train_tasks=1000400").disk_bytes - needs().disk_bytes == 2 * 2_700_000_000
    num_cells = 2 * (3 * 2 + 2)
    asked = needs("evaluate.processes=1000").memory_bytes
    assert asked == num_cells * (500_000_000 + 4 * needs().parameters)  # no more are begun
    assert needs("evaluate.processes=8").memory_bytes == asked // 2


@pytest.mark.parametrize("changes", [[], ["model.num_layers=5"], ["model.num_layers=1"]])
def test_parameters_are_counted_without_the_whole_model(changes):
    recipe = load_recipe("smoke", changes)
    with on_meta():
        parts = LongcatForCausalLM(model_config(recipe)).parameters()
    assert _parameters(recipe.model) == sum(part.numel() for part in parts)


def test_a_deep_model_is_timed_by_a_shallow_one(monkeypatch):
    """Its plan took a minute and a half."""
    timed = []

    def measure(recipe):
        timed.append(recipe.model.num_layers)
        return 1000, 0.001

    monkeypatch.setattr("longcat_cli.stages.cold_start.seconds_per_token", measure)
    deep = load_recipe("smoke", ["model.num_layers=500"])
    slow, fast = estimate(deep), estimate(load_recipe("smoke"))
    assert timed == [checks.LAYERS_MEASURED, 2]
    assert slow.parameters == _parameters(deep.model)
    assert slow.seconds / fast.seconds == pytest.approx(slow.parameters / 1000)


@pytest.mark.parametrize("place", ["file", "file/below", "link"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_plan_refuses_the_folder_that_a_run_refuses(tmp_path, place, dry_run):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match="--out must be a folder that can be made"):
        begin("smoke", [], tmp_path / place, dry_run=dry_run)


def test_a_plan_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="--out must be a new or an empty folder"):
        begin("smoke", [], tmp_path, dry_run=True)
    assert begin("smoke", [], tmp_path / "a" / "b", dry_run=True).path == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()


def _raise_ctrl_c(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["begin", "plan"])
def test_ctrl_c_before_there_is_a_run_is_told(longcat, tmp_path, monkeypatch, where):
    """It ended without a word."""
    monkeypatch.setattr(start, where, _raise_ctrl_c)
    told = longcat("train", "--recipe", "smoke", "--out", tmp_path / "run", "--dry-run")
    assert (told.returncode, told.stderr) == (130, "\nstopped\n")


def test_ctrl_c_while_a_run_that_is_there_loads_says_how_it_goes_on(longcat, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "lacks", _raise_ctrl_c)
    told = longcat("train", "--recipe", "smoke", "--out", tmp_path / "run")
    assert told.returncode == 130
    assert told.stderr == f"\nstopped; continue with: longcat train --resume {tmp_path / 'run'}\n"


def _stopped_after(delay, program, *words, path=()):
    """Return code and errors of a command in its own session, told to stop once it is up."""
    places = os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", f"print('up', flush=True)\n{program}", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": places},
        # Started in the background, it might ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "up\n"
            if delay is not None:
                time.sleep(delay)
                os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=LONGEST_S)
        finally:
            process.kill()
    return process.returncode, errors


COMMAND = "from longcat_cli.main import run; run()"


@pytest.mark.parametrize("module", ["typer", "longcat_cli.recipe_file"])
def test_ctrl_c_while_a_module_loads_shows_no_traceback(tmp_path, module):
    """It was a traceback through Typer's files, or nothing at all."""
    (tmp_path / "pressed.py").write_text(
        "import signal, sys\n"
        "class Presses:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Presses())\n"
    )
    words = ["train", "--recipe", "smoke", "--dry-run"]
    ended = _stopped_after(None, f"import pressed; {COMMAND}", *words, path=[tmp_path])
    assert ended == (130, "\nstopped\n")


@pytest.mark.parametrize("delay", [0.3, 1.0])
def test_ctrl_c_early_is_one_line(tmp_path, delay):
    """Wherever it was: a plan takes longer than this to load torch alone and to time a step."""
    words = ["train", "--recipe", "smoke", "--dry-run", "--out", tmp_path / "run"]
    assert _stopped_after(delay, COMMAND, *words) == (130, "\nstopped\n")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_that_a_library_turned_into_another_error_is_one_line(longcat, monkeypatch):
    """torch, half loaded, ended in a RecursionError: seen once in some hundred tries."""

    def half_loaded(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RecursionError("maximum recursion depth exceeded")  # noqa: B904 - as it was

    monkeypatch.setattr("longcat_cli.main.app", half_loaded)
    done = longcat("train")
    assert (done.returncode, done.stderr) == (130, "\nstopped\n")
