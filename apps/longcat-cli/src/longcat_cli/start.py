"""How a run begins or goes on: its recipe is checked whole; a resumed one may change the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .checks import check_recipe, estimate, room_for, room_needed, size
from .errors import UsageError
from .folder import RunFolder, check_new
from .recipe import Recipe
from .recipe_file import changed, keys, load_recipe

CHECKING = "checking the recipe; torch is loaded for it, which takes some seconds"
"""Said before a silence."""

SHAPES_ALL = ("seed", "name", "groups", "model", "grow")
"""Keys and sections that everything already made stands on."""

SHAPES_NO_EXPERT = (
    "rl.steps", "rl.save_every", "rl.runtime", "rl.ray_address", "rl.experts_at_once",
)  # fmt: skip
"""Keys of `rl` that say how long, and where: an expert goes on under others."""


def begin(
    recipe: str, changes: Sequence[str], out: Path | None, *, dry_run: bool,
    echo: Callable[[str], object] = print,
) -> RunFolder:  # fmt: skip
    """A new run folder, or with `dry_run` one that is not made.

    Raises:
        UsageError: The recipe breaks a rule, or the folder holds a run.
    """
    wanted = load_recipe(recipe, changes)
    path = out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    check_new(path)
    echo(CHECKING)
    check_recipe(wanted)
    return RunFolder(path, wanted) if dry_run else RunFolder.create(path, wanted)


def resumed(
    path: Path, changes: Sequence[str], *, echo: Callable[[str], object], dry_run: bool
) -> RunFolder:
    """A run folder that goes on, its recipe changed where that touches nothing that is done.

    Raises:
        UsageError: No such run, a broken rule, or a change of what is done.
    """
    folder = RunFolder.open(path)
    wanted = changed(folder.recipe, changes)
    lines = _changes(folder, wanted)
    echo(CHECKING)
    check_recipe(wanted)
    for line in lines:
        echo(line)
    is_asked_otherwise = wanted.evaluate != folder.recipe.evaluate
    folder.recipe = wanted
    if changes and not dry_run:
        folder.save()
        if is_asked_otherwise:  # what was asked while the experts were fused
            folder.cells.unlink(missing_ok=True)
    return folder


def _changes(folder: RunFolder, wanted: Recipe) -> list[str]:
    """A line for each key that is changed.

    Raises:
        UsageError: What stands on a key is there already.
    """
    before = {key.name: key.value for key in keys(folder.recipe)}
    lines: list[str] = []
    for key in keys(wanted):
        if key.value == before.get(key.name):
            continue
        _check_change(folder, key.name, wanted)
        lines.append(f"changed: {key.name} from {before.get(key.name)!r} to {key.value!r}")
    return lines


def _check_change(folder: RunFolder, key: str, wanted: Recipe) -> None:
    for stage in stages_that_stand_on(key, wanted):
        if _has_begun(folder, stage):
            raise UsageError(
                f"{key} can be changed only before {stage}, which this run has begun; "
                f"begin another run for it"
            )
    # An expert that has begun goes on longer, one that is done does not: they would differ.
    for stage in _experts(wanted) if key == "rl.steps" else ():
        if folder.is_done(stage):
            raise UsageError(
                f"{key} can be changed only before {stage} is done, which it is in this run; "
                f"begin another run for it"
            )


def stages_that_stand_on(key: str, recipe: Recipe) -> list[str]:
    """Stages whose artefact a key has shaped."""
    section = key.partition(".")[0]
    experts = _experts(recipe)
    if section in SHAPES_ALL:
        return ["grow", "cold_start", *experts, "fuse", "evaluate"]
    return {
        "cold_start": ["cold_start"],
        "rl": [] if key in SHAPES_NO_EXPERT else experts,
        "noise": experts,
        "fuse": ["fuse"],
        "evaluate": ["evaluate"],
    }.get(section, [])


def _experts(recipe: Recipe) -> list[str]:
    return [f"expert-{group}" for group in recipe.groups]


def _has_begun(folder: RunFolder, stage: str) -> bool:
    """Whether a stage is done, or has made something that a change would contradict."""
    group = stage.removeprefix("expert-")
    left = {
        stage: folder.expert(group) / "dora",
        "cold_start": folder.path / "cold_start.state",
        "evaluate": folder.cells,
    }
    if stage == "evaluate" and not folder.is_done("fuse"):
        return False  # what was asked ahead of time is soon asked again
    return folder.is_done(stage) or left[stage].exists()


def lacks(folder: RunFolder) -> list[str]:
    """What this machine may lack for a run that begins or goes on now, a line each."""
    return list(room_for(room_needed(folder.recipe), folder.path))


def plan(folder: RunFolder) -> Iterator[str]:
    """What a run will do and take, in lines for people; nothing is written."""
    from .train import together

    recipe = folder.recipe
    done = [stage for stage in recipe.stages if folder.is_done(stage)]
    yield f"run folder: {folder.path}"
    for stages in together(recipe):
        num = min(recipe.experts_at_once, len(stages))
        beside = f", {num} at once" if len(stages) > 1 else ""
        for stage in stages:
            yield f"{stage:24} {'done before' if stage in done else f'to do{beside}'}"
    if done == recipe.stages:
        yield "nothing to do: all is done"
        return
    needs = estimate(recipe, done)
    yield f"model: {needs.parameters:,} parameters, on {recipe.device}"
    yield (
        f"estimate: {needs.seconds / 60:.0f} minutes at the pace of a training step measured here "
        f"just now, {size(needs.memory_bytes)} of memory, {size(needs.disk_bytes)} of disk"
    )
    for line in room_for(needs, folder.path):
        yield f"warning: {line}"
