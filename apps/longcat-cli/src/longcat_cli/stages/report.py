"""report: one page, `report.html`, that opens offline; its curves lie beside it as PNG files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from longcat_cli.display import Shows
from longcat_cli.folder import RunFolder
from longcat_cli.page import facts, tables, talks
from longcat_cli.page.charts import Line, chart, smooth
from longcat_cli.page.sheet import sheet
from longcat_cli.recipe_file import keys

from .evaluate import averages


def run(folder: RunFolder, display: Shows) -> dict[str, Any]:
    """Write the curves and the page; return where they are."""
    rows = json.loads((folder.path / "evaluation.json").read_text("utf-8"))
    examples = json.loads((folder.path / "examples.json").read_text("utf-8"))
    display.update(done=0.0, now="drawing the curves")
    page = sheet(f"{folder.recipe.name}: {folder.path.name}", _sections(folder, rows, examples))
    part = folder.path / ".report.part"
    part.write_text(page, encoding="utf-8")
    part.replace(folder.path / "report.html")
    display.update(done=1.0, page="report.html")
    return {"page": "report.html"}


def _sections(
    folder: RunFolder, rows: list[dict[str, Any]], examples: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    recipe = folder.recipe
    samples = {group: _samples(folder.expert(group) / "samples.json") for group in recipe.groups}
    return [
        ("", _head(folder, rows)),
        ("Held-out tasks", _evaluation(rows)),
        ("The same task, before and after", _BEFORE + talks.before_and_after(examples)),
        ("Curves", "".join(f"<figure>{svg}</figure>" for svg in curves(folder))),
        ("RL: the first attempt and the last", talks.first_and_last(samples)),
        ("Stages", _stages(folder)),
        ("Recipe", _recipe(folder)),
        ("", _foot(folder)),
    ]


_BEFORE = (
    "<p>Of the first held-out tasks, one that the fused model passes and the cold start fails, "
    "where there is one. A plus is a rubric that was met.</p>"
)


def _head(folder: RunFolder, rows: list[dict[str, Any]]) -> str:
    recipe = folder.recipe
    about = (
        f"<p>A model trained from nothing to act in {len(recipe.domains)} worlds with tools: cold "
        f"start on verified trajectories, {len(recipe.groups)} experts by GSPO in rising noise, "
        f"fused into one.</p>"
    )
    title = f"<h1>{facts.escape(recipe.name)}: {facts.escape(folder.path.name)}</h1>"
    means, levels = averages(rows), sorted({row["noise"] for row in rows})
    known = tables.pairs(facts.head(folder, recipe.stages))
    return title + about + tables.cards(means, levels) + known


def _evaluation(rows: list[dict[str, Any]]) -> str:
    return (
        "<p>One attempt at each held-out task. Under each rate, and as a bar, Wilson's 95% "
        "interval; the best rate of a column is green.</p>"
        f"{tables.matrix(rows)}<details><summary>Every cell</summary>{_table(rows)}</details>"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    return tables.cells(rows)


def curves(folder: RunFolder) -> list[str]:
    """The three charts: loss of the cold start, reward and staleness of RL."""
    cold = _rows(folder.path / "cold_start.jsonl")
    rl = {group: _rows(folder.expert(group) / "dora" / "metrics.jsonl")
          for group in folder.recipe.groups}  # fmt: skip
    rewards: list[Line] = []
    stale: list[Line] = []
    for number, (group, rows) in enumerate(rl.items()):
        steps = [row["step"] for row in rows]
        sampled, trained = ([row[key] for row in rows] for key in ("sampled_reward", "reward"))
        rewards.append(Line(group, steps, smooth(sampled), number))
        rewards.append(Line("", steps, smooth(trained), number, is_dotted=True))
        stale.append(Line(group, steps, [_mean(row["staleness"]) for row in rows], number))
    loss = [Line("", [row["step"] for row in cold], [row["loss"] for row in cold], 0)]
    return [
        chart(loss, title="Cold start: loss", x="step", y="nats per token", is_log=True,
              png=folder.path / "cold_start.png"),
        chart(rewards, title="RL: pass rate of all that was sampled; dotted: trained on",
              x="step", y="mean of 10 steps", is_share=True, png=folder.path / "reward.png"),
        chart(stale, title="RL: how old each batch was on average", x="step", y="versions behind",
              png=folder.path / "staleness.png"),
    ]  # fmt: skip


def _mean(counts: dict[str, int]) -> float:
    return sum(int(key) * count for key, count in counts.items()) / max(sum(counts.values()), 1)


def _stages(folder: RunFolder) -> str:
    done = {stage: folder.facts(stage) for stage in folder.recipe.stages}
    total = folder.spent_s(done) or 1.0  # more than whole in sum, where some overlap
    lines = [
        (
            stage,
            facts.duration(fact["seconds"]),
            f"{fact['seconds'] / total:.0%}",
            facts.story(stage, fact),
        )
        for stage, fact in done.items()
        if fact
    ]
    table = tables.plain(("stage", "took", "share", "what it did"), lines)
    if sum(fact["seconds"] for fact in done.values() if fact) < 1.05 * total:
        return table
    note = "Some stages ran beside each other, so that the shares are more than the whole."
    return f"{table}<p><small>{note}</small></p>"


def _recipe(folder: RunFolder) -> str:
    changed = facts.changes(folder.recipe)
    parts: list[str] = []
    if changed:
        parts.append("<p>Changed against the shipped recipe:</p>")
        parts.append(tables.plain(("key", "shipped", "here", "meaning"), changed))
    every = [(key.name, facts.short(key.value), key.meaning.splitlines()[0])
             for key in keys(folder.recipe)]  # fmt: skip
    table = tables.plain(("key", "value", "meaning"), every)
    return "".join(parts) + f"<details><summary>Every key</summary>{table}</details>"


def _foot(folder: RunFolder) -> str:
    """How to get all this again."""
    recipe = folder.recipe
    sets = "".join(f" --set {key}={value!r}" for key, _, value, _ in facts.changes(recipe))
    name = facts.escape(folder.path.name)
    return (
        f"<footer><p>Again: <code>longcat train --recipe {facts.escape(recipe.name)}"
        f"{facts.escape(sets)}</code>. Derived a second time: <code>longcat audit runs/{name}"
        f"</code>. More attempts a task: <code>longcat eval runs/{name} -k 4</code>.</p></footer>"
    )


def _samples(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.is_file():
        return {"first": [], "last": []}
    return json.loads(path.read_text("utf-8"))


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
