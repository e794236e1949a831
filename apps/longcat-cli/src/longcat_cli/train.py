"""`longcat train`: the stages in order, each skipped if it is done."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .display import Display
from .errors import UsageError
from .folder import RunFolder
from .recipe import Recipe
from .stages import cold_start, evaluate, experts, fuse, grow, report

Stage = Callable[[RunFolder, Display], dict[str, Any]]


def stages_of(recipe: Recipe) -> dict[str, Stage]:
    """The stages of a recipe, by name, in order."""
    trained: dict[str, Stage] = {
        f"expert-{group}": functools.partial(experts.run, group=group) for group in recipe.groups
    }
    return {
        "grow": grow.run,
        "cold_start": cold_start.run,
        **trained,
        "fuse": fuse.run,
        "evaluate": evaluate.run,
        "report": report.run,
    }


def train(folder: RunFolder) -> dict[str, Any]:
    """Run what is not done yet; return the evaluation's averages."""
    stages = stages_of(folder.recipe)
    folder.note_session()
    with Display(list(stages)) as display:
        for name, stage in stages.items():
            if folder.is_done(name):
                display.end(name, "done before")
                continue
            display.begin(name, functools.partial(_waits_for, folder, name))
            began = time.monotonic()
            facts = stage(folder, display)
            seconds = round(time.monotonic() - began, 1)
            folder.mark_done(name, {"seconds": seconds, **facts})
            display.end(name, f"{seconds:.0f} s  {_brief(facts)}")
    return folder.facts("evaluate")


def _waits_for(folder: RunFolder, stage: str) -> dict[str, Any]:
    """What DORA says it waits for while an expert trains."""
    status = folder.expert(stage.removeprefix("expert-")) / "dora" / "status.json"
    try:
        said = json.loads(status.read_text("utf-8"))
    except (OSError, ValueError):  # not begun, or just being replaced
        return {}
    if said.get("pid") != os.getpid():  # of a process that ended before
        return {}
    return {"now": f"{said['why']}"}


def _brief(facts: dict[str, Any]) -> str:
    if "contract" in facts:
        return str(facts["contract"])
    shown = [f"{k} {_number(v)}" for k, v in facts.items() if isinstance(v, int | float | str)]
    return "  ".join(shown[:4])


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def newest_run(root: Path = Path("runs")) -> RunFolder:
    """The run folder that was begun last and has a trained model."""
    found = [path.parent for path in root.glob("*/run.json")]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        folder = RunFolder.open(path)
        if folder.is_trained:
            return folder
    raise UsageError(f"a trained model must be in {root}/, none was found; run: longcat train")
