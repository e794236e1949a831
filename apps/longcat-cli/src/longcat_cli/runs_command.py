"""`longcat runs`: what was run, how far it came, and how runs compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import UsageError

runs_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Runs: what was run, and how runs compare.",
)
ROOT = Annotated[Path, typer.Option(help="The folder that holds the runs.")]
JSON = Annotated[bool, typer.Option("--json", help="As JSON.")]
_WIDEST = 40
"""Letters of a column: longer values, such as groups, push the next one aside."""


@runs_app.command("list", epilog="Example: longcat runs list")
def runs_list(root: ROOT = Path("runs"), as_json: JSON = False) -> None:
    """Show every run: its recipe, how far it came, its pass rate."""
    if not root.is_dir() and root != Path("runs"):
        raise UsageError(f"--root must be the folder that holds the runs, {root} is none")
    rows = [_summary(path.parent) for path in sorted(root.glob("*/run.json"))]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        rates = "  ".join(f"{key} {rate:.1%}" for key, rate in row["rates"].items())
        typer.echo(f"{row['run']}  {row['recipe']}  seed {row['seed']}  {row['state']}  {rates}")
    if not rows:
        typer.echo(f"no run in {root}/; begin one with: longcat train")


@runs_app.command("show", epilog="Example: longcat runs show runs/20261124-101500")
def runs_show(
    run: Annotated[Path, typer.Argument(help="A run folder.")], as_json: JSON = False
) -> None:
    """Show a run's stages, what each took, and the evaluation."""
    from .folder import RunFolder

    folder = RunFolder.open(run)
    facts = {stage: folder.facts(stage) for stage in folder.recipe.stages}
    if as_json:
        typer.echo(json.dumps({**_summary(run), "stages": facts}, indent=2))
        return
    typer.echo(f"{folder.recipe.name}, seed {folder.recipe.seed}: {_summary(run)['state']}")
    for stage, fact in facts.items():
        typer.echo(f"{stage:20} {fact['seconds']:7.1f} s" if fact else f"{stage:20} to do")
    for key, rate in _rates(folder).items():
        typer.echo(f"{key:20} {rate:7.1%}")


@runs_app.command("compare", epilog="Example: longcat runs compare runs/a runs/b")
def runs_compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")], as_json: JSON = False
) -> None:
    """Show where recipes differ, and their pass rates side by side."""
    from .folder import RunFolder
    from .recipe_file import as_toml, keys

    if len(runs) < 2:
        raise UsageError(f"compare needs two runs or more, got {len(runs)}")
    folders = [RunFolder.open(run) for run in runs]
    values = [{key.name: key.value for key in keys(folder.recipe)} for folder in folders]
    differ = {name: [v.get(name) for v in values] for name in values[0]
              if any(v.get(name) != values[0][name] for v in values)}  # fmt: skip
    rates = [_rates(folder) for folder in folders]
    names = list(dict.fromkeys(name for rate in rates for name in rate))
    table = {name: [rate.get(name) for rate in rates] for name in names}
    if as_json:
        typer.echo(json.dumps({"runs": [str(r) for r in runs], "recipe": differ, "rates": table}))
        return
    texts = {name: [as_toml(value) for value in row] for name, row in differ.items()}
    for name, row in table.items():
        texts[name] = ["-" if rate is None else f"{rate:.1%}" for rate in row]
    for line in _columns({"": [str(run) for run in runs], **texts}):
        typer.echo(line)


def _columns(table: dict[str, list[str]]) -> Iterator[str]:
    """Lines of a table, each column as wide as its head and what it holds, up to a point."""
    wide = [
        max(len(head), min(_WIDEST, max(map(len, held), default=0)))
        for head, *held in zip(*table.values(), strict=True)
    ]
    first = max(map(len, table))
    for name, row in table.items():
        cells = (f"{cell:{width}}" for cell, width in zip(row, wide, strict=True))
        yield f"{name:{first}}  {'  '.join(cells)}".rstrip()


def _summary(path: Path) -> dict[str, Any]:
    from .folder import RunFolder

    try:
        folder = RunFolder.open(path)
    except (UsageError, KeyError) as error:
        return {"run": str(path), "recipe": "?", "seed": "?", "state": str(error), "rates": {}}
    missing = [stage for stage in folder.recipe.stages if not folder.is_done(stage)]
    return {
        "run": str(path),
        "recipe": folder.recipe.name,
        "seed": folder.recipe.seed,
        "state": f"before {missing[0]}" if missing else "done",
        "rates": _rates(folder),
    }


def _rates(folder: Any) -> dict[str, float]:
    return {key: rate for key, rate in folder.facts("evaluate").items() if "@" in key}
