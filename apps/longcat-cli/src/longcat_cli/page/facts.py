"""What the page tells of a run, in words and short numbers."""

from __future__ import annotations

import html
import time
from typing import Any

from longcat_cli.checks import size
from longcat_cli.folder import RunFolder
from longcat_cli.recipe import Recipe
from longcat_cli.recipe_file import as_toml, keys, load_recipe, shipped_recipes


def short(value: Any) -> str:
    """A number with three figures at most; anything else as it is.

    >>> short(2.569924831390381), short(3124864), short(0.037701797475257794), short(240.0)
    ('2.57', '3,124,864', '0.0377', '240')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(4.2), duration(75), duration(3725)
    ('4 s', '1 min 15 s', '1 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def head(folder: RunFolder, stages: list[str]) -> list[tuple[str, str]]:
    """What, when, on which machine, with which versions."""
    recipe, sessions = folder.recipe, folder.sessions()
    began = time.strftime("%d %B %Y, %H:%M", time.localtime(folder.created))
    spent = folder.spent_s(stages)
    rows = [
        ("recipe", f"{recipe.name}, seed {recipe.seed}"),
        ("begun", began),
        ("took", duration(spent) + (f" in {len(sessions)} sessions" if len(sessions) > 1 else "")),
    ]
    parameters = folder.facts("cold_start").get("parameters")
    if parameters:
        rows.append(("model", f"{parameters:,} parameters, LongCat-Flash architecture"))
    domains = ", ".join(recipe.domains)
    rows.append(("worlds", f"{domains}; {recipe.grow.eval_tasks} held-out tasks each"))
    if sessions:
        rows += _session(sessions[-1])
    return rows


def _session(session: dict[str, Any]) -> list[tuple[str, str]]:
    machine = session["machine"]
    parts = [
        machine["processor"],
        f"{machine['cores']:g} cores",
        f"{size(machine['memory_bytes'])} of memory",
        ", ".join(machine["gpus"]) or "no GPU",
        machine["system"],
    ]
    return [("machine", ", ".join(parts)), ("versions", ", ".join(session["versions"]))]


def changes(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Keys that differ from the shipped recipe of the same name: key, shipped, here, meaning."""
    if recipe.name not in shipped_recipes():
        return []
    shipped = {key.name: key.value for key in keys(load_recipe(recipe.name))}
    return [
        (key.name, _said(shipped.get(key.name)), _said(key.value), " ".join(key.meaning.split()))
        for key in keys(recipe)
        if shipped.get(key.name) != key.value
    ]


def _said(value: Any) -> str:
    return "" if value is None else as_toml(value)


def story(stage: str, facts: dict[str, Any]) -> str:
    """What a stage did, in a sentence or two."""
    if not facts:
        return ""
    if stage == "grow":
        files = [fact for fact in facts.values() if isinstance(fact, dict)]
        tasks = sum(fact["tasks"] for fact in files)
        tools = sorted({fact["tools"] for fact in files})
        between = f"{tools[0]} to {tools[-1]}" if len(tools) > 1 else str(tools[0] if tools else 0)
        return (
            f"{tasks:,} tasks, each verified by acting out its golden chain; "
            f"{between} tools a world"
        )
    if stage == "cold_start":
        return (
            f"{facts['steps']:,} supervised steps on {facts['trajectories']:,} verified "
            f"trajectories of {facts['mean_tokens']:.0f} tokens; vocabulary {facts['vocabulary']:,}"
        )
    if stage.startswith("expert-"):
        return _expert(facts)
    if stage == "fuse":
        return (
            f"{len(facts['experts'])} experts merged, then {facts['steps']:,} supervised steps on "
            f"{facts['trajectories']:,} of their successful trajectories"
            + (
                f"; a head to guess ahead with: {facts['head_steps']:,} steps"
                if facts.get("head_steps")
                else ""
            )
        )
    if stage == "evaluate":
        return "held-out tasks of every domain, clean and in noise: see the table above"
    return ""


def _expert(facts: dict[str, Any]) -> str:
    stale = facts.get("staleness", {})
    total = sum(stale.values())
    mean = sum(int(key) * count for key, count in stale.items()) / total if total else 0.0
    ended = ", ".join(f"{count:,} {reason.replace('_', ' ')}"
                      for reason, count in facts.get("ended", {}).items())  # fmt: skip
    return (
        f"{facts['steps']} steps on {facts['trajectories']:,} trajectories, {mean:.2f} versions "
        f"behind on average; noise at the end {facts['noise_level']:g}"
        + (f"; not trained on: {ended}" if ended else "")
        + f". Event log: {facts['contract']}"
    )


def escape(text: Any) -> str:
    """Text that is safe inside HTML."""
    return html.escape(str(text))
