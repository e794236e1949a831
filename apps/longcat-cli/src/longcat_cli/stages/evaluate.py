"""evaluate: held-out tasks, clean and noisy, for every model; the artefact is `evaluation.json`."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from longcat_dora import Session
from longcat_envs import InvalidEpisode

from longcat_cli.agent import act, load_agent, transcript
from longcat_cli.display import Shows
from longcat_cli.evals.trials import sampled
from longcat_cli.folder import RunFolder, write_json
from longcat_cli.processes import copied, count, tune_process, worker_pool
from longcat_cli.worlds import load_worlds, read_tasks

NUM_SLOTS = 64
NUM_EXAMPLES = 8
"""Attempts of a cell that are kept whole, so that the report finds some worth showing."""


def models(folder: RunFolder) -> dict[str, tuple[Path, list[str]]]:
    """Name of each model to its folder and the domains it is asked about."""
    recipe = folder.recipe
    named = {"cold_start": (folder.cold_start, recipe.domains)}
    for group, domains in recipe.groups.items():
        named[f"expert:{group}"] = (folder.expert(group) / "model", domains)
    named["merged"] = (folder.merged, recipe.domains)
    named["fused"] = (folder.fused, recipe.domains)
    return named


Cell = tuple[str, str, str, str, float]
"""Run, model, the model's folder, domain and noise: what `evaluate_cell` takes."""


def run(folder: RunFolder, display: Shows) -> dict[str, Any]:
    """Fill the table, one row per cell; return the averages."""
    with Evaluation(folder) as evaluation:
        return evaluation.run(display)


class Evaluation:
    """Asks the models, some of them ahead of time; a context that ends its processes."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._results = folder, _Results(folder)
        self._begun: dict[Cell, Future[dict[str, Any]]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def begin_ahead(self) -> None:
        """Ask the models that are there before they are fused, in a process beside what goes on.

        What it has not begun by then is left to `run`, and so is what goes wrong here. With one
        process for evaluations there is none to spare.
        """
        if self._folder.recipe.evaluate.processes == 1:
            return
        there = [cell for cell in self._missing() if cell[1] not in ("merged", "fused")]
        if there:
            pool = self._open.enter_context(worker_pool(1, copied()))
            for cell in there:
                asked = pool.submit(evaluate_cell, *cell)
                asked.add_done_callback(functools.partial(self._results.take, cell))
                self._begun[cell] = asked

    def run(self, display: Shows) -> dict[str, Any]:
        """Ask what is missing, wait for what is being asked; write the table, return the averages.

        `Shows` counts the attempts of the former alone.
        """
        evaluate = self._folder.recipe.evaluate
        begun = {asked: cell for cell, asked in self._begun.items() if _goes_on(asked)}
        missing = [cell for cell in self._missing() if cell not in begun.values()]
        total = max(1, evaluate.tasks * len(missing))
        with worker_pool(evaluate.processes, copied()) as pool:
            futures = begun | {pool.submit(evaluate_cell, *cell): cell for cell in missing}
            last: dict[str, str] = {}

            def tell(tried: int) -> None:
                display.update(done=tried / total, attempts=f"{tried}/{total}", **last)

            for future in pool.finished(futures, tell):
                row = self._results.add(futures[future], future.result())["row"]
                last = {"last_cell": f"{row['model']}/{row['domain']}@{row['noise']:g}",
                        "passed": f"{row['passed']}/{row['total']}"}  # fmt: skip
        self._open.close()
        display.update(done=1.0, cells=len(_cells(self._folder)))
        return self._write()

    def _missing(self) -> list[Cell]:
        return [cell for cell in _cells(self._folder) if cell not in self._results]

    def _write(self) -> dict[str, Any]:
        path = self._folder.path
        ordered = [self._results.of(cell) for cell in _cells(self._folder)]
        write_json(path / "evaluation.json", [result["row"] for result in ordered])
        write_json(path / "examples.json", [result["examples"] for result in ordered])
        write_json(path / "outcomes.json", [result["outcomes"] for result in ordered])
        return averages([result["row"] for result in ordered])


def _goes_on(asked: Future[Any]) -> bool:
    """Whether it is being asked; what was not begun never will be."""
    return not asked.done() and not asked.cancel()


def _cells(folder: RunFolder) -> list[Cell]:
    return [
        (str(folder.path), name, str(path), domain, noise)
        for name, (path, domains) in models(folder).items()
        for domain in domains
        for noise in folder.recipe.evaluate.noise
    ]


class _Results:
    """What the cells gave, by model, domain and noise: kept as it comes in."""

    def __init__(self, folder: RunFolder) -> None:
        self._file, self._lock = folder.cells, threading.Lock()
        before = json.loads(self._file.read_text("utf-8")) if self._file.is_file() else []
        self._found: dict[tuple[Any, ...], dict[str, Any]] = {tuple(k): v for k, v in before}

    def __contains__(self, cell: Cell) -> bool:
        return _key(cell) in self._found

    def of(self, cell: Cell) -> dict[str, Any]:
        return self._found[_key(cell)]

    def add(self, cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
        with self._lock:  # a thread adds what was asked ahead
            self._found[_key(cell)] = result
            write_json(self._file, [[list(key), value] for key, value in self._found.items()])
        return result

    def take(self, cell: Cell, asked: Future[dict[str, Any]]) -> None:
        """Add what a process has found, if it has."""
        if not asked.cancelled() and asked.exception() is None:
            self.add(cell, asked.result())


def _key(cell: Cell) -> tuple[str, str, float]:
    return cell[1], cell[3], cell[4]


def evaluate_cell(run: str, name: str, model: str, domain: str, noise: float) -> dict[str, Any]:
    """One model on one domain's held-out tasks at one noise level; runs in its own process."""
    tune_process()
    folder = RunFolder.open(Path(run))
    recipe = folder.recipe
    tasks = read_tasks(folder.tasks(domain, "eval"))[: recipe.evaluate.tasks]
    worlds = load_worlds([domain])
    return asyncio.run(_evaluate(recipe, Path(model), name, tasks, worlds, noise))


async def _evaluate(
    recipe: Any, model: Path, name: str, tasks: list[Any], worlds: Any, noise: float
) -> dict[str, Any]:
    tried = await _try_all(recipe, model, tasks, worlds, noise)
    outcomes = [outcome for outcome in tried if outcome is not None]
    cell = {"model": name, "domain": next(iter(worlds)), "noise": noise}
    row = {
        **cell,
        "passed": sum(outcome["reward"] == 1 for outcome in outcomes),
        "total": len(outcomes),
        "invalid": len(tried) - len(outcomes),
        "refused": sum(outcome["is_refused"] for outcome in outcomes),
        "tokens": sum(outcome["tokens"] for outcome in outcomes),
    }
    return {
        "row": row,
        "examples": {**row, "examples": outcomes[:NUM_EXAMPLES]},
        "outcomes": {
            **cell,
            "rewards": {outcome["task"]: outcome["reward"] for outcome in outcomes},
            "answers": {outcome["task"]: _digest(outcome["transcript"]) for outcome in outcomes},
        },
    }


def _digest(turns: list[dict[str, Any]]) -> str:
    """Of an attempt: twelve digits that are others if one word of it is."""
    return hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()[:12]


async def _try_all(
    recipe: Any, model: Path, tasks: list[Any], worlds: Any, noise: float
) -> list[dict[str, Any] | None]:
    """One attempt at each task; `None` where the world failed."""
    rl = recipe.rl
    worker = load_agent(
        model, num_slots=NUM_SLOTS, max_length=rl.max_length, max_tokens=rl.max_tokens,
        temperature=rl.temperature, seed=recipe.seed,
    )  # fmt: skip

    async def one(task: Any) -> dict[str, Any] | None:
        session = Session(worker, 0)
        try:
            attempt = await act(
                worlds,
                task,
                session,
                level=noise,
                episode=f"eval:{task.id}",
                max_turns=rl.max_turns,
            )
        except InvalidEpisode:
            return None  # the world's fault: counted apart, and never as a failure
        finally:
            await session.close()
            count()
        episode = attempt.episode
        return {
            "task": task.id,
            "reward": episode.reward.total,
            "rubrics": dict(episode.reward.parts),
            "transcript": transcript(episode.messages),
            "tokens": sampled(session.segments),
            "is_refused": attempt.num_refused > 0 and not attempt.level,
        }

    return list(await asyncio.gather(*(one(task) for task in tasks)))


def averages(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean pass rate over domains, by kind of model and noise: `{"cold_start@0.0": 0.41, ...}`."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        kind = row["model"].partition(":")[0]
        kind = "experts" if kind == "expert" else kind
        rate = row["passed"] / max(row["total"], 1)
        sums.setdefault(f"{kind}@{row['noise']}", []).append(rate)
    return {key: sum(rates) / len(rates) for key, rates in sums.items()}
