"""evaluate: every model is asked again, and the rows are counted from the tasks."""

from __future__ import annotations

import json
from typing import Any

from longcat_cli.folder import RunFolder
from longcat_cli.stages.evaluate import evaluate_cell, models
from longcat_cli.worlds import load_worlds


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
    for outcome in kept[:: max(1, -(-len(kept) // max(limit // 8, 1)))]:
        lines += _differences(outcome, _ask_again(folder, outcome))
    return lines


def _differences(outcome: dict[str, Any], again: dict[str, tuple[float, str]]) -> list[str]:
    """Of two askings: rewards must be the same, and nearly all words.

    One task in ten may be answered in other words: of two tokens whose chances are the same to the
    last digit either may be taken, in another batch.
    """
    name, rewards = _name(outcome), outcome["rewards"]
    other = [task for task in rewards if again.get(task, (None,))[0] != rewards[task]]
    if other or len(again) != len(rewards):
        return [f"{name}: asked again, {len(other)} tasks end otherwise"]
    words = outcome.get("answers", {})  # not told by the first versions
    other = [task for task in words if again[task][1] != words[task]]
    if len(other) > len(words) / 10:
        return [f"{name}: asked again, {len(other)} of {len(words)} tasks are answered otherwise"]
    return []


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']} on {row['domain']} at noise {row['noise']:g}"


def _ask_again(folder: RunFolder, cell: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Task to reward and words, by the model that lies where the cell's model must lie."""
    path, domains = models(folder)[cell["model"]]
    (domain,) = [name for name in domains if cell["domain"] in load_worlds([name])]
    result = evaluate_cell(str(folder.path), cell["model"], str(path), domain, cell["noise"])
    found = result["outcomes"]
    return {task: (reward, found["answers"][task]) for task, reward in found["rewards"].items()}
