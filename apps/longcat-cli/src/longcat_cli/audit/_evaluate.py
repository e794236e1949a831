"""evaluate: every model is asked again, and the rows are counted from the tasks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from longcat_dora import Session

from longcat_cli.agent import act, load_agent
from longcat_cli.folder import RunFolder
from longcat_cli.processes import tune_process
from longcat_cli.stages.evaluate import NUM_SLOTS, models
from longcat_cli.worlds import load_worlds, read_tasks


def complaints(folder: RunFolder, limit: int) -> list[str]:
    """Count every row; ask again in up to `limit // 8` cells, spread over the models."""
    rows = json.loads((folder.path / "evaluation.json").read_text("utf-8"))
    kept = json.loads((folder.path / "outcomes.json").read_text("utf-8"))
    lines: list[str] = []
    for row, outcome in zip(rows, kept, strict=True):
        rewards = outcome["rewards"]
        counted = {"passed": sum(r == 1 for r in rewards.values()), "total": len(rewards)}
        if counted != {key: row[key] for key in counted}:
            lines.append(f"{_name(row)}: its tasks count {counted}, the table says otherwise")
    tune_process()
    for outcome in kept[:: max(1, -(-len(kept) // max(limit // 8, 1)))]:
        again = asyncio.run(_rewards(folder, outcome))
        other = [task for task, reward in outcome["rewards"].items() if again.get(task) != reward]
        if other or len(again) != len(outcome["rewards"]):
            lines.append(f"{_name(outcome)}: asked again, {len(other)} tasks end otherwise")
    return lines


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']} on {row['domain']} at noise {row['noise']:g}"


async def _rewards(folder: RunFolder, cell: dict[str, Any]) -> dict[str, float]:
    """Task to reward, by the model that lies where the cell's model must lie."""
    recipe, rl = folder.recipe, folder.recipe.rl
    path, domains = models(folder)[cell["model"]]
    worlds = load_worlds(domains)
    (domain,) = [name for name in domains if cell["domain"] in load_worlds([name])]
    tasks = read_tasks(folder.tasks(domain, "eval"))[: recipe.evaluate.tasks]
    worker = load_agent(
        path, num_slots=NUM_SLOTS, max_length=rl.max_length, max_tokens=rl.max_tokens,
        temperature=rl.temperature, seed=recipe.seed,
    )  # fmt: skip

    async def one(task: Any) -> float:
        session = Session(worker, 0)
        try:
            attempt = await act(worlds, task, session, level=cell["noise"],
                                episode=f"eval:{task.id}", max_turns=rl.max_turns)  # fmt: skip
        finally:
            await session.close()
        return attempt.episode.reward.total

    rewards = await asyncio.gather(*(one(task) for task in tasks))
    return {task.id: reward for task, reward in zip(tasks, rewards, strict=True)}
