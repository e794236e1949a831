"""grow: environments with their tasks, per domain; the artefact is `environments/*.jsonl`."""

from __future__ import annotations

from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from longcat_envs import Grower, GrowthConfig, Task, load_domain

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.processes import worker_pool

TRAIN_SEED, EVAL_SEED = 1, 1_000_003


def run(folder: RunFolder, display: Display) -> dict[str, Any]:
    """Grow what is missing; return the facts."""
    recipe = folder.recipe
    config = GrowthConfig(
        id_digits=recipe.grow.id_digits,
        share_compound=recipe.grow.share_compound,
        share_clarify=recipe.grow.share_clarify,
    )
    for domain in recipe.domains:
        load_domain(domain)  # a broken file is an error here, not in a process
    wanted = [
        (domain, split, folder.tasks(domain, split), count, recipe.seed + seed)
        for domain in recipe.domains
        for split, count, seed in (
            ("train", recipe.grow.train_tasks, TRAIN_SEED),
            ("eval", recipe.grow.eval_tasks, EVAL_SEED),
        )
    ]
    missing = [job for job in wanted if not job[2].is_file()]
    facts: dict[str, Any] = {}
    with worker_pool(min(2, len(missing) or 1)) as pool:
        futures = [pool.submit(_grow, *job, config) for job in missing]
        for number, future in enumerate(as_completed(futures), start=1):
            name, fact = future.result()
            facts[name] = fact
            display.update(done=number / len(futures), last=name, **fact)
    return facts


def _grow(
    domain: str, split: str, path: Path, count: int, seed: int, config: GrowthConfig
) -> tuple[str, dict[str, Any]]:
    grower = Grower(
        load_domain(domain), seed=seed, config=config, prefix=f"{Path(domain).stem}-{split}"
    )
    tasks: dict[tuple[str, ...], Task] = {}
    while len(tasks) < count:
        task = next(grower)
        tasks[task.opening, str(task.golden)] = task  # no task twice
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(task.to_json() + "\n" for task in tasks.values()), encoding="utf-8")
    part.replace(path)
    sizes = [len(task.tools) for task in tasks.values()]
    return f"{Path(domain).stem}.{split}", {
        "tasks": len(tasks),
        "tools": len(grower.tools),
        "min_tools": min(sizes, default=0),
        "rejected": grower.num_rejected,
    }
