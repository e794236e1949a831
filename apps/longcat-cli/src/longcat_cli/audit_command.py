"""`longcat audit`: what a run left, derived a second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .errors import UsageError


def audit(
    run: Annotated[
        Path | None, typer.Argument(help="The run folder; the newest when absent.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Tasks, attempts or cells derived again, at most, a stage.")
    ] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Derive a run's results a second time: do they stand?

    Exit code 1 where they do not. Rewards are derived from the sampled tokens, log-probs from the
    weights of their version, the weights from the batches, the fused model from the logs, the table
    from the models.
    """
    from .audit import audit as derive_again
    from .folder import chosen_run

    if limit < 1:
        raise UsageError(f"--limit must be at least 1, got {limit}")
    found: dict[str, list[str]] = {}
    for stage, complaints in derive_again(chosen_run(run), limit=limit):
        found[stage] = complaints
        if as_json:
            continue
        typer.echo(f"{stage}: {'stands' if not complaints else f'{len(complaints)} complaints'}")
        for line in complaints:
            typer.echo(f"  {line}")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    raise SystemExit(int(any(found.values())))
