"""What several keys of a recipe must keep together, found before anything runs.

The packages' own configurations are built once, so that each rule is written where it belongs;
what they say is told with the recipe's section.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Container, Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from .errors import UsageError
from .machine import memory_bytes
from .recipe import Model, Recipe
from .recipe_file import Key, changed, keys


def check_recipe(recipe: Recipe) -> None:
    """Raise what the recipe would fail with, minutes later; on this machine, if it is too small.

    Raises:
        UsageError: The first rule that is broken, with the keys named.
    """
    # What is far too large is told before a model of that size is built to look at it.
    for line in itertools.chain(_own_rules(recipe), _too_much(recipe), broken_rules(recipe)):
        raise UsageError(line)


def broken_rules(recipe: Recipe) -> Iterator[str]:
    """Every rule that a recipe breaks, a line each."""
    yield from _own_rules(recipe)
    for section, build in _builders(recipe).items():
        try:
            build()
        except (ValueError, TypeError) as error:
            yield f"{section}: {error}"
    yield from _domains(recipe)
    yield from _environment(recipe)


def _own_rules(recipe: Recipe) -> Iterator[str]:
    rl, model = recipe.rl, recipe.model
    rules = [
        (rl.hard_staleness >= rl.soft_staleness,
         (f"rl.hard_staleness must be at least rl.soft_staleness={rl.soft_staleness}, "
         f"got {rl.hard_staleness}")),
        (rl.max_length <= model.max_position_embeddings,
         (f"rl.max_length must be at most model.max_position_embeddings="
         f"{model.max_position_embeddings}, got {rl.max_length}")),
        (rl.max_tokens < rl.max_length,
         f"rl.max_tokens must be below rl.max_length={rl.max_length}, got {rl.max_tokens}"),
        (rl.max_running >= rl.group_size,
         f"rl.max_running must be at least rl.group_size={rl.group_size}, got {rl.max_running}"),
        (rl.runtime == "local" or rl.experts_at_once <= 1,
         (f"rl.experts_at_once must be 1 with rl.runtime={rl.runtime!r}, where each expert has the "
         f"whole cluster, got {rl.experts_at_once}")),
        (rl.budget == "even" or rl.budget_low <= rl.group_size <= rl.budget_high,
         (f"rl.group_size={rl.group_size} must be from rl.budget_low to rl.budget_high, "
         f"got {rl.budget_low} and {rl.budget_high}")),
        (recipe.evaluate.tasks <= recipe.grow.eval_tasks,
         (f"evaluate.tasks must be at most grow.eval_tasks={recipe.grow.eval_tasks}, "
         f"got {recipe.evaluate.tasks}")),
        (recipe.evaluate.processes <= MOST_PROCESSES,
         (f"evaluate.processes must be at most {MOST_PROCESSES}, "
         f"got {recipe.evaluate.processes}")),
        (len(set(recipe.evaluate.noise)) == len(recipe.evaluate.noise) > 0,
         f"evaluate.noise must hold different levels, got {recipe.evaluate.noise}"),
        (len(recipe.noise.levels) > 0
         and sorted(set(recipe.noise.levels)) == recipe.noise.levels,
         (f"noise.levels must be one or more levels, each above the one before, "
         f"got {recipe.noise.levels}")),
        (recipe.grow.share_compound + recipe.grow.share_clarify <= 1,
         "grow.share_compound and grow.share_clarify must not exceed 1 together"),
    ]  # fmt: skip
    yield from (line for holds, line in rules if not holds)
    stems = [Path(domain).stem for domain in recipe.domains]
    if len(set(stems)) < len(stems):
        yield f"groups: domains must have different names, got {recipe.domains}"
    for name, domains in recipe.groups.items():
        if len(set(domains)) < len(domains):
            yield f"groups: expert {name!r} must be given each domain once, got {domains}"
        if not name.replace("-", "").replace("_", "").isalnum():
            yield f"groups: an expert's name must be letters, digits, - and _, got {name!r}"


def _builders(recipe: Recipe) -> dict[str, Callable[[], Any]]:
    """Section to what builds the packages' configuration from it."""
    from longcat_dora import SchedulerConfig
    from longcat_envs import GrowthConfig
    from longcat_fusion import MergeConfig
    from longcat_noise import CurriculumConfig

    from .stages.cold_start import check_model
    from .stages.experts import trainer_config

    rl, fuse = recipe.rl, recipe.fuse
    return {
        "grow": lambda: GrowthConfig(
            id_digits=recipe.grow.id_digits, share_compound=recipe.grow.share_compound,
            share_clarify=recipe.grow.share_clarify,
        ),
        "model": lambda: check_model(recipe),
        "rl": lambda: (
            SchedulerConfig(
                groups_per_batch=rl.groups_per_batch, group_size=rl.group_size,
                soft_staleness=rl.soft_staleness, hard_staleness=rl.hard_staleness,
                at_bound=rl.at_bound, max_running=rl.max_running,
            ),
            trainer_config(recipe),
        ),
        "noise": lambda: CurriculumConfig(
            levels=tuple(recipe.noise.levels), max_gap=recipe.noise.max_gap,
            min_pass_rate=recipe.noise.min_pass_rate,
        ),
        "fuse": lambda: MergeConfig(
            normalise=fuse.normalise, drop=fuse.drop, erase=fuse.erase, scale=fuse.scale
        ),
    }  # fmt: skip


def _domains(recipe: Recipe) -> Iterator[str]:
    from .worlds import load_world

    for domain in recipe.domains:
        try:
            load_world(domain)
        except (ValueError, OSError) as error:
            yield f"groups: {error}"


def _environment(recipe: Recipe) -> Iterator[str]:
    import importlib.util

    import torch

    if recipe.device == "cuda" and not torch.cuda.is_available():
        yield "this recipe has device = 'cuda', which must be there; no GPU was found"
    if recipe.rl.runtime == "ray" and importlib.util.find_spec("ray") is None:
        yield "rl.runtime = 'ray' needs: pip install 'longcat-dora[ray]'"


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """What a run takes, estimated."""

    parameters: int
    memory_bytes: int
    disk_bytes: int
    seconds: float


BYTES_TRAINED = 16
"""A parameter that is trained: weight, gradient and Adam's two moments, in float32."""
TOKENS_OF_AN_ATTEMPT = {False: 150, True: 330}
"""In a world of tables, and in one with a past."""
RL_COST = 2.5
"""Seconds of RL a token trained on, over those of a supervised step: sampling, retries, epochs."""
BESIDE = 0.75
"""Time that experts take beside each other on two cores, over that one after the other."""
HEAD_COST = 0.5
"""Seconds of a step of the prediction head over those of a step of the whole model."""
PROCESS_BYTES = 500_000_000
"""Of a process that has torch loaded, besides its weights."""
TASK_MEMORY, TASK_DISK = 15_000, 2_700
"""Bytes of a task, while it is made and when it is written down: measured in worlds of tables."""
MOST_PROCESSES = 1024
"""For an evaluation: a slip of the pen ends here, not where all is trained."""
LAYERS_MEASURED = 8
"""Of a deeper model so many are timed: its other blocks are alike."""
FAR_TOO_MUCH = 2
"""Times what there is: an estimate may be wrong by a factor of two."""


def estimate(recipe: Recipe, done: Container[str] = ()) -> Needs:
    """Measure one training step of the recipe's model here, scaled up: within a factor of two.

    Args:
        recipe: What is trained.
        done: Stages that take no time, since they are done.
    """
    from .worlds import has_past

    parameters, pace = _pace(recipe)
    rl, missing = recipe.rl, [name for name in recipe.groups if f"expert-{name}" not in done]
    beside = min(recipe.experts_at_once, len(missing))
    attempts = rl.steps * rl.groups_per_batch * rl.group_size
    length = mean(TOKENS_OF_AN_ATTEMPT[has_past(domain)] for domain in recipe.domains)
    slower = BESIDE if beside > 1 else 1.0
    fuse = recipe.fuse.steps * recipe.fuse.batch_tokens
    if recipe.fuse.road == "distil":
        fuse = recipe.fuse.distil_steps * recipe.fuse.distil_attempts * length * RL_COST
    head = HEAD_COST * recipe.fuse.head_steps * recipe.fuse.batch_tokens
    tokens = {
        "cold_start": recipe.cold_start.steps * recipe.cold_start.batch_tokens,
        "experts": len(missing) * attempts * length * RL_COST * slower,
        "fuse": fuse + head,
        "evaluate": _cells(recipe) * recipe.evaluate.tasks * length,
    }
    seconds = pace * sum(number for stage, number in tokens.items() if stage not in done)
    return dataclasses.replace(_room(recipe, parameters), seconds=seconds)


def room_needed(recipe: Recipe) -> Needs:
    """What a run takes besides time: nothing is measured, and no model built.

    Raises:
        ValueError: The model's sizes do not fit together.
    """
    return _room(recipe, _parameters(recipe.model))


def _room(recipe: Recipe, parameters: int) -> Needs:
    experts, grow = len(recipe.groups), recipe.grow
    log = experts * recipe.rl.steps * recipe.rl.groups_per_batch * recipe.rl.group_size * 4_000
    checkpoints = parameters * ((3 + experts) * 4 + (1 + 2 * experts) * BYTES_TRAINED)
    tasks = len(recipe.domains) * (grow.train_tasks + grow.eval_tasks)
    return Needs(
        parameters=parameters,
        memory_bytes=_memory(recipe, parameters),
        disk_bytes=checkpoints + log + tasks * TASK_DISK,
        seconds=0.0,
    )


def _memory(recipe: Recipe, parameters: int) -> int:
    """Bytes of the stage that takes most."""
    rl, grow = recipe.rl, recipe.grow
    # Controllers of a cluster that is there already are elsewhere.
    here = 0 if rl.runtime == "ray" and rl.ray_address else rl.num_controllers
    live = parameters * (BYTES_TRAINED + 4 * (rl.hard_staleness + 2) * here)
    beside = min(recipe.experts_at_once, len(recipe.groups))
    train = beside * (live + (1 + here) * PROCESS_BYTES)
    asking = min(recipe.evaluate.processes, _cells(recipe))  # no more are begun
    evaluate = asking * (parameters * 4 + PROCESS_BYTES)
    grown = min(2, len(recipe.domains)) * max(grow.train_tasks, grow.eval_tasks) * TASK_MEMORY
    return max(train, evaluate, grown)


def _cells(recipe: Recipe) -> int:
    """Of the evaluation's table: models, domains and levels of noise."""
    return len(recipe.evaluate.noise) * (3 * len(recipe.domains) + len(recipe.groups))


@cache
def _parameters(model: Model) -> int:
    """Parameters of an architecture by one block and by two: a thousand take long to build."""
    from longcat_moe import LongcatForCausalLM, on_meta

    from .stages.cold_start import model_config

    model_config(Recipe(model=model))  # a size that no model has is told as such
    counted: list[int] = []
    for num_layers in (1, 2):
        few = Recipe(model=dataclasses.replace(model, num_layers=num_layers))
        with on_meta():
            parts = LongcatForCausalLM(model_config(few)).parameters()
        counted.append(sum(part.numel() for part in parts))
    return counted[0] + (model.num_layers - 1) * (counted[1] - counted[0])


def _pace(recipe: Recipe) -> tuple[int, float]:
    """Parameters, and seconds of a token: those of a deep model by a shallow one's."""
    from .stages.cold_start import seconds_per_token

    if recipe.model.num_layers <= LAYERS_MEASURED:
        return seconds_per_token(recipe)
    shallow = dataclasses.replace(recipe.model, num_layers=LAYERS_MEASURED)
    measured, pace = seconds_per_token(dataclasses.replace(recipe, model=shallow))
    parameters = _parameters(recipe.model)
    return parameters, pace * parameters / measured


def _too_much(recipe: Recipe) -> Iterator[str]:
    """What this machine cannot hold, however roughly that is estimated."""
    has = memory_bytes()
    try:
        needed = _memory_here(recipe)
    except (ValueError, TypeError):
        return  # sizes that do not fit together: told as a rule of the model
    if not has or needed <= FAR_TOO_MUCH * has:
        return
    key = _to_blame(recipe, needed)
    name, got = (key.name, f"got {key.value}, a run") if key else ("the run", "got one")
    yield f"{name} must fit into {size(has)} of memory, {got} that takes about {size(needed)}"


def _memory_here(recipe: Recipe) -> int:
    """Without weights on a GPU."""
    return _memory(recipe, _parameters(recipe.model) if recipe.device == "cpu" else 0)


def _to_blame(recipe: Recipe, needed: int) -> Key | None:
    """The key that takes most over what it is by default; none where it is not half of all."""
    usual = {key.name: key.value for key in keys(Recipe())}
    blamed, least = None, needed / 2
    for key in keys(recipe):
        default = usual[key.name]
        if type(key.value) is not int or key.value <= default:
            continue
        try:
            without = _memory_here(changed(recipe, [f"{key.name}={default}"]))
        except (ValueError, TypeError):
            continue  # a size that goes with another one
        if without < least:
            blamed, least = key, without
    return blamed


def room_for(needs: Needs, folder: Path) -> Iterator[str]:
    """What this machine lacks for a run in `folder`, a line each."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needs.disk_bytes:
        yield f"the run needs about {size(needs.disk_bytes)} of disk, {place} has {size(free)} free"
    memory = memory_bytes()
    if memory and memory < needs.memory_bytes:
        yield (
            f"the run needs about {size(needs.memory_bytes)} of memory, this machine has "
            f"{size(memory)}"
        )


def size(num_bytes: float) -> str:
    """Bytes for people.

    >>> size(1_500_000_000)
    '1.5 GB'
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"
