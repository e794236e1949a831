"""Held-out tasks are none that are trained on."""

import subprocess
import sys

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import grow
from longcat_cli.worlds import read_tasks


def _contents(folder, split):
    return {(task.opening, str(task.golden)) for task in read_tasks(folder.tasks("shop", split))}


def test_nothing_held_out_is_among_the_trained_whatever_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(grow, "EVAL_SEED", grow.TRAIN_SEED)  # else they are met by chance alone
    recipe = load_recipe("smoke", ["grow.train_tasks=12", "grow.eval_tasks=8"])
    folder = RunFolder.create(tmp_path / "run", recipe)
    with Display(["grow"]) as display:
        facts = grow.run(folder, display)
    trained, held_out = (_contents(folder, split) for split in ("train", "eval"))
    assert (len(trained), len(held_out)) == (12, 8)
    assert not trained & held_out
    assert facts["shop.eval"]["tasks"] == 8
    before = folder.tasks("shop", "eval").read_bytes()
    folder.tasks("shop", "eval").unlink()  # stopped between the two, and continued
    with Display(["grow"]) as display:
        assert list(grow.run(folder, display)) == ["shop.eval"]
    assert folder.tasks("shop", "eval").read_bytes() == before


def test_processes_that_grow_tasks_load_no_torch():
    code = "import sys, longcat_cli.stages.grow; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0  # six seconds each
