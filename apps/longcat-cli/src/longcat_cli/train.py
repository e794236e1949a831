"""`longcat train`: the stages in order, each skipped if it is done."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from .beside import Stage, run_beside
from .display import Display, Figures
from .folder import RunFolder
from .processes import load_ahead
from .recipe import Recipe
from .stages import cold_start, evaluate, experts, fuse, grow, report


def stages_of(recipe: Recipe) -> dict[str, Stage]:
    """The stages of a recipe, by name: `Recipe.stages` in order."""
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
    folder.note_session()
    with (
        Display(list(stages_of(folder.recipe))) as display,
        evaluate.Evaluation(folder) as evaluation,
    ):
        run = _Run(folder, display, evaluation)
        for names in together(folder.recipe):
            missing = [name for name in names if not folder.is_done(name)]
            for name in names:
                if name not in missing:
                    display.end(name, "done before")
            if missing == ["cold_start"]:  # on one core: the other one is idle
                load_ahead()
            if len(names) > 1 and missing:
                load_ahead()  # where the cold start was done before
                run_beside(
                    folder, missing, stages=stages_of, at_once=folder.recipe.experts_at_once,
                    begin=run.begin, end=run.end,
                )  # fmt: skip
            elif missing:
                run.alone(missing[0])
    return folder.facts("evaluate")


def together(recipe: Recipe) -> Iterator[list[str]]:
    """Names of a recipe's stages in order, those in one list that go on beside each other."""
    has_sides = recipe.experts_at_once > 1 and len(recipe.groups) > 1

    def place(numbered: tuple[int, str]) -> int:
        number, name = numbered
        return -1 if has_sides and name.startswith("expert-") else number

    for _, found in groupby(enumerate(stages_of(recipe)), place):
        yield [name for _, name in found]


class _Run:
    """What begins and ends a stage, wherever it runs."""

    def __init__(
        self, folder: RunFolder, display: Display, evaluation: evaluate.Evaluation
    ) -> None:
        self.folder, self.display, self._evaluation = folder, display, evaluation

    def alone(self, name: str) -> None:
        """Run a stage in this process."""
        began = time.time()
        shown = self.begin(name, os.getpid)
        if name == "fuse":  # on one core: the other one asks the models that are there
            self._evaluation.begin_ahead()
        if name == "evaluate":
            facts = self._evaluation.run(shown)
        else:
            facts = stages_of(self.folder.recipe)[name](self.folder, shown)
        self.end(name, began, facts)

    def begin(self, name: str, process: Callable[[], int | None]) -> Figures:
        """Show that a stage begins in a process."""
        return self.display.begin(name, functools.partial(_waits_for, self.folder, name, process))

    def end(self, name: str, began: float, facts: dict[str, Any]) -> None:
        """Write down that a stage is done, and what it noted."""
        seconds = round(time.time() - began, 1)
        self.folder.mark_done(name, {"began": began, "seconds": seconds, **facts})
        self.display.end(name, f"{seconds:.0f} s  {_brief(facts)}")


def _waits_for(folder: RunFolder, stage: str, process: Callable[[], int | None]) -> dict[str, Any]:
    """What DORA says it waits for while an expert trains in a process."""
    status = folder.expert(stage.removeprefix("expert-")) / "dora" / "status.json"
    try:
        said = json.loads(status.read_text("utf-8"))
    except (OSError, ValueError):  # not begun, or just being replaced
        return {}
    if said.get("pid") != process():  # of a process that ended before
        return {}
    return {"now": f"{said['why']}"}


def _brief(facts: dict[str, Any]) -> str:
    if "contract" in facts:
        return str(facts["contract"])
    shown = [f"{k} {_number(v)}" for k, v in facts.items() if isinstance(v, int | float | str)]
    return "  ".join(shown)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
