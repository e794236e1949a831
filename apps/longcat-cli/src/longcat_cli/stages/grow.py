"""grow: environments with their tasks, per domain; the artefact is `environments/*.jsonl`.

Held-out tasks are grown after those to train on, and none of them is among these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from pathlib import Path
from typing import Any

from longcat_envs import Grower, GrowthConfig, World
from longcat_envs.history import MIN_ID_DIGITS
from longcat_envs.tasks import TaskMaker

from longcat_cli.display import Shows
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.processes import count, worker_pool
from longcat_cli.recipe import Recipe
from longcat_cli.worlds import AnyTask, load_world, read_tasks

TRAIN_SEED, EVAL_SEED = 1, 1_000_003
HELD_OUT = 1000
"""First of the pasts that are held out."""
MOST_REPEATED = 2000
"""Tasks in a row that were there before: then a domain is taken to have no more."""


def run(folder: RunFolder, display: Shows) -> dict[str, Any]:
    """Grow what is missing; return the facts."""
    recipe = folder.recipe
    for domain in recipe.domains:
        load_world(domain)  # a broken file is an error here, not in a process
    wanted = [
        (domain, split, folder.tasks(domain, split), number, recipe.seed + seed)
        for split, number, seed in (
            ("train", recipe.grow.train_tasks, TRAIN_SEED),
            ("eval", recipe.grow.eval_tasks, EVAL_SEED),
        )
        for domain in recipe.domains
    ]
    missing = [job for job in wanted if not job[2].is_file()]
    facts: dict[str, Any] = {}
    tell = _Teller(display, sum(job[3] for job in missing))
    with worker_pool(min(2, len(missing) or 1)) as pool:
        for split in ("train", "eval"):
            futures = [pool.submit(_grow, *job, recipe) for job in missing if job[1] == split]
            for future in pool.finished(futures, tell):
                name, fact = future.result()
                facts[name] = fact
                tell.last = name
    display.update(done=1.0, files=len(wanted))
    return facts


class _Teller:
    """Shows how many tasks there are."""

    def __init__(self, display: Shows, total: int) -> None:
        self.display, self.total, self.last = display, total, ""

    def __call__(self, grown: int) -> None:
        last = {"last_file": self.last} if self.last else {}
        self.display.update(done=grown / self.total, tasks=f"{grown}/{self.total}", **last)


def grow_tasks(domain: str, split: str, number: int, seed: int, recipe: Recipe) -> list[AnyTask]:
    """So many different tasks of a domain.

    Raises:
        UsageError: The domain does not give so many.
    """
    return list(_grown(domain, split, number, seed, recipe)[0].values())


def _grown(
    domain: str,
    split: str,
    number: int,
    seed: int,
    recipe: Recipe,
    taken: Container[tuple[str, str]] = (),
) -> tuple[dict[tuple[str, str], AnyTask], Grower | TaskMaker]:
    grower = _grower(domain, split, seed, recipe)
    tasks: dict[tuple[str, str], AnyTask] = {}
    repeated = 0
    while len(tasks) < number:
        task = next(grower)
        key = _content(task)
        if key in tasks or key in taken:
            repeated += 1
            if repeated > MOST_REPEATED:
                raise UsageError(
                    f"{domain} gives {len(tasks)} different tasks, and {number} are wanted"
                )
            continue
        repeated = 0
        tasks[key] = task
        count()
    return tasks, grower


def _grower(domain: str, split: str, seed: int, recipe: Recipe) -> Grower | TaskMaker:
    grow, world = recipe.grow, load_world(domain)
    prefix = f"{Path(domain).stem}-{split}"
    if isinstance(world, World):
        config = GrowthConfig(
            id_digits=grow.id_digits,
            share_compound=grow.share_compound,
            share_clarify=grow.share_clarify,
        )
        return Grower(world.domain, seed=seed, config=config, prefix=prefix)
    # Held-out tasks start from pasts of their own: who lives there was never met.
    first, number = (0, grow.pasts) if split == "train" else (HELD_OUT, max(1, grow.pasts // 4))
    setting = dataclasses.replace(world, id_digits=max(MIN_ID_DIGITS, grow.id_digits))
    return TaskMaker(
        setting, seed=seed, difficulty=grow.difficulty, prefix=prefix,
        pasts=range(first, first + number), iso_dates=True,
    )  # fmt: skip


def _content(task: AnyTask) -> tuple[str, str]:
    """What makes two tasks the same to an agent, whatever they are called."""
    return task.opening, str(task.golden)


def _grow(
    domain: str, split: str, path: Path, number: int, seed: int, recipe: Recipe
) -> tuple[str, dict[str, Any]]:
    trained = path.with_name(f"{Path(domain).stem}.train.jsonl")
    is_held_out = split == "eval" and trained.is_file()
    taken = {_content(task) for task in read_tasks(trained)} if is_held_out else ()
    tasks, grower = _grown(domain, split, number, seed, recipe, taken)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(task.to_json() + "\n" for task in tasks.values()), encoding="utf-8")
    part.replace(path)
    sizes = [len(task.tools) for task in tasks.values()]
    return f"{Path(domain).stem}.{split}", {
        "tasks": len(tasks),
        "tools": len(grower.graph.tools),
        "min_tools": min(sizes, default=0),
        "rejected": grower.num_rejected if isinstance(grower, Grower) else grower.num_failed,
    }
