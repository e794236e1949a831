"""grow: golden chains pass, silence fails, and nothing held out was trained on."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

from longcat_cli.folder import RunFolder
from longcat_cli.worlds import AnyTask, demonstrate, environment_of, load_worlds, read_tasks

from ._again import said_again


def complaints(folder: RunFolder, limit: int) -> list[str]:
    """Check up to `limit` tasks of every domain and split."""
    worlds = load_worlds(folder.recipe.domains)
    lines: list[str] = []
    for domain in folder.recipe.domains:
        splits = {split: read_tasks(folder.tasks(domain, split)) for split in ("train", "eval")}
        for split, tasks in splits.items():
            lines += [line for task in tasks[:limit] for line in _task(task, worlds, split)]
        seen = {_content(task) for task in splits["train"]}
        lines += [f"{task.id} is held out and among the trained" for task in splits["eval"]
                  if _content(task) in seen]  # fmt: skip
    return lines


def _task(task: AnyTask, worlds: Any, split: str) -> list[str]:
    attempt = said_again(worlds, task, golden_messages(task, worlds))
    silent = said_again(worlds, task, [{"role": "assistant", "content": "Done."}])
    lines = []
    if attempt.episode.reward.total != 1:
        lines.append(f"{task.id} ({split}): its golden chain must pass, {attempt.episode.reward}")
    if silent.episode.reward.total == 1:
        lines.append(f"{task.id} ({split}): doing nothing must fail, and passes")
    return lines


def golden_messages(task: AnyTask, worlds: Any) -> list[dict[str, Any]]:
    """The assistant's side of a golden demonstration."""
    environment = environment_of(worlds[task.domain], task)
    demo = asyncio.run(demonstrate(environment, rng=Random(0), share_alternative=0.0))
    return [m for m in demo.messages if m["role"] == "assistant"] if demo else []


def _content(task: AnyTask) -> str:
    return task.opening + json.dumps([str(step) for step in task.golden])
