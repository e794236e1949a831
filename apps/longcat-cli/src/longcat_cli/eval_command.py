"""`longcat eval`: how good a model is, on which tasks, at what cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UsageError

if TYPE_CHECKING:
    from .evals.measures import Cell
    from .evals.targets import Wish
    from .evals.trials import Question

SAID = list[list[dict[str, Any]]]


def evaluate(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, checkpoint folders, URLs; the newest run when absent."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Of a run: cold_start, expert:NAME, merged, fused or all. Repeatable."),
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help="Of the run, a shipped one or a file. Repeatable.")
    ] = None,
    noise: Annotated[
        list[float] | None, typer.Option(help="Level, 0 to 1; 0 and 0.3 when absent. Repeatable.")
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", "-k", help="For pass@k and pass^k. Repeatable.")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(help="At each task; the largest k when absent.")
    ] = None,
    tasks: Annotated[int | None, typer.Option(help="Of each domain, at most.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of an assistant's turn.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Of an attempt.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Of a conversation, in tokens; a server has its own.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the sampling.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    processes: Annotated[int, typer.Option(help="Cells evaluated at once.")] = 2,
    parallel: Annotated[int, typer.Option(help="Attempts under way at once in a cell.")] = 32,
    server_model: Annotated[
        str | None, typer.Option(help="The model's name on a server; asked for when absent.")
    ] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Variable that holds the server's key.")
    ] = "OPENAI_API_KEY",
    save: Annotated[
        Path | None, typer.Option(help="Write every attempt to this file, JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Try held-out tasks several times: avg@n, pass@k, pass^k.

    With tokens per success and what noise costs. Intervals are 95%, over tasks. pass@k: one of k
    attempts passes; pass^k: all of k do.
    """
    from .evals.targets import Wish
    from .folder import chosen_run

    ks = sorted(set(k or [1]))
    attempts = attempts if attempts is not None else max(ks)
    levels = list(dict.fromkeys([0.0, 0.3] if noise is None else noise))
    _check_numbers(locals())
    if max(ks) > attempts:
        raise UsageError(f"-k must be at most --attempts={attempts}, got {max(ks)}")
    if temperature == 0 and attempts > 1 and 0 in levels:
        raise UsageError(
            "--temperature 0 gives the same attempt each time without noise; use --attempts 1"
        )
    wish = Wish(
        models=tuple(model or ()), domains=tuple(domain or ()), num_tasks=tasks,
        max_tokens=max_tokens, max_turns=max_turns, max_length=max_length, temperature=temperature,
        server_model=server_model, api_key_env=api_key_env, num_running=parallel, seed=seed,
    )  # fmt: skip
    questions = _questions(what or [str(chosen_run(None).path)], wish, levels, attempts, save)
    try:
        answered = _ask(questions, processes)
    except KeyboardInterrupt:
        typer.echo("\nstopped; nothing was measured", err=True)
        raise SystemExit(130) from None
    report = _report([cell for cell, _ in answered], ks, attempts)
    _print(report, as_json=as_json)  # first: what cannot be saved must not take the figures along
    if save is not None:
        _save(save, answered)
    if all(cell.had_no_room for cell, _ in answered):
        raise UsageError(f"a model must be asked to have figures: {answered[0][0].note}")


def _check_numbers(options: dict[str, Any]) -> None:
    if min(options["ks"]) < 1:
        raise UsageError(f"-k must be at least 1, got {min(options['ks'])}")
    least = {"tasks": 1, "attempts": 1, "max_tokens": 1, "max_turns": 1, "max_length": 16,
             "temperature": 0, "seed": 0, "processes": 1, "parallel": 1}  # fmt: skip
    for name, lowest in least.items():
        value = options[name]
        if value is not None and not lowest <= value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")
    for level in options["levels"]:
        if not 0 <= level <= 1:
            raise UsageError(f"--noise must be in [0, 1], got {level}")


def _questions(
    whats: Sequence[str], wish: Wish, levels: Sequence[float], attempts: int, save: Path | None
) -> list[Question]:
    """Every cell; what can be wrong is looked at first where that takes no time."""
    from .evals.targets import limits_for, named, subjects, tasks_of
    from .evals.trials import Question

    found, home = subjects(whats, wish)
    if save is not None:
        _writable(save)
    found = named(found, wish)
    domains = dict.fromkeys(name for subject in found for name in subject.domains)
    tasks = {name: tasks_of(name, home, wish) for name in domains}
    return [
        Question(
            subject.target,
            domain,
            level,
            tasks[domain],
            attempts,
            limits_for(home, wish, subject.target),
        )
        for subject in found
        for domain in subject.domains
        for level in levels
    ]


def _ask(questions: list[Question], processes: int) -> list[tuple[Cell, SAID]]:
    """Every cell, in order; in processes of their own."""
    from rich.console import Console

    from .display import Display
    from .evals.trials import ask
    from .processes import worker_pool

    total = sum(len(question.tasks) * question.attempts for question in questions)
    with (
        Display(["eval"], console=Console(stderr=True)) as display,
        worker_pool(min(processes, len(questions))) as pool,
    ):
        display.begin("eval")
        places = {pool.submit(ask, question): number for number, question in enumerate(questions)}
        answered: dict[int, tuple[Cell, SAID]] = {}
        for future in pool.finished(
            places, lambda done: display.update(done=done / total, attempts=f"{done}/{total}")
        ):
            answered[places[future]] = future.result()
    return [answered[number] for number in range(len(questions))]


def _report(cells: list[Cell], ks: list[int], attempts: int) -> dict[str, Any]:
    from .evals.measures import gaps, over_domains, row

    return {
        "attempts": attempts,
        "rows": [row(cell, ks) for cell in cells],
        "over_domains": over_domains(cells, ks),
        "gaps": gaps(cells),
    }


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    from .evals.table import table

    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    for line in table(report):
        typer.echo(line)


def _writable(path: Path) -> None:
    """Say that a file cannot be written before minutes are spent on what goes into it."""
    is_new = not (path.exists() or path.is_symlink())
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if is_new:
            path.unlink()  # another mistake may follow, and leave nothing behind
    except OSError as error:
        raise UsageError(f"--save {path} cannot be written: {error.strerror}") from error


def _save(path: Path, answered: Sequence[tuple[Cell, SAID]]) -> None:
    """Attempts as `longcat-noise report` reads them too.

    Raises:
        OSError: As the system raises it; a note says what was being written.
    """
    try:
        with path.open("w", encoding="utf-8") as file:
            for record in _records(answered):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not know it
        error.add_note(f"the attempts are not all in --save {path}")
        raise


def _records(answered: Sequence[tuple[Cell, SAID]]) -> Iterator[dict[str, Any]]:
    from dataclasses import asdict

    for cell, said in answered:
        for attempt, messages in zip(cell.attempts, said, strict=True):
            yield {"model": cell.model, "domain": cell.domain, **asdict(attempt),
                   "passed": attempt.has_passed, "messages": messages}  # fmt: skip
