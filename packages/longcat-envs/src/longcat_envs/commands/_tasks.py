"""Commands about tasks: grow, audit, agents, solve, difficulty, play."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longcat_envs._fields import DomainError
from longcat_envs.attacks import admitted, agents_domain, audit_domain
from longcat_envs.difficulty import Cut, cut, solve_figures
from longcat_envs.figures import grow_figures, growth_figures
from longcat_envs.history import Setting
from longcat_envs.loaders import audit_foreign_set, foreign_agents, is_foreign
from longcat_envs.playing import play_in_terminal
from longcat_envs.running import Trial, pass_rates, read_trials
from longcat_envs.tasks import TaskMaker, WorldTask

from ._common import (
    Commands,
    command,
    count,
    foreign_argument,
    foreign_of,
    num_tasks,
    read_tasks,
    setting_of,
    show,
    task_arguments,
    write_tasks,
)  # fmt: skip
from ._models import load_agent, run_agent


def register(commands: Commands) -> None:
    """Add the commands of this room."""
    words = "attack fresh tasks, or those of another benchmark; print what is found"
    audit = command(commands, "audit", _audit, words, domain=True)
    words = "run careless and careful agents on admitted tasks"
    agents = command(commands, "agents", _agents, words, domain=True)
    words = "grow environments; print their figures, or write them"
    grow = command(commands, "grow", _grow, words, domain=True)
    for one in (audit, agents, grow):
        task_arguments(one, tasks=20)
    for one in (audit, agents):
        foreign_argument(one)
    agents.add_argument("--agent", metavar="FILE:Class", help="also run this class: chat(...)")
    grow.add_argument("--out", type=Path, metavar="FILE", help="write tasks as JSONL")
    growth = command(
        commands, "growth", _growth, "grow with growth on and off; print what moves", domain=True
    )
    growth.add_argument("--environments", type=count, default=1000, metavar="N")
    growth.add_argument("--seed", type=int, default=0)
    solve = command(
        commands, "solve", _solve, "look for chains blindly; print what is not found", domain=True
    )
    hard = command(
        commands, "difficulty", _difficulty, "measure tasks; keep those within bounds", domain=True
    )
    for one in (solve, hard):
        task_arguments(one, tasks=10)
        one.add_argument("--file", type=Path, help="take the tasks of this file instead")
    for name, words in (("writes", "golden writes"), ("attempts", "calls of the blind solver")):
        hard.add_argument(f"--{name}", type=_range, metavar="LOW:HIGH", help=f"bounds of {words}")
    hard.add_argument("--results", type=Path, metavar="FILE.jsonl", help="what `run --out` kept")
    hard.add_argument("--pass-rate", type=_share_range, metavar="LOW:HIGH",
                      help="bounds of the pass rate, such as 0.1:0.9")  # fmt: skip
    hard.add_argument("--out", type=Path, metavar="FILE", help="write the tasks that are kept")
    play = command(commands, "play", _play, "be the agent of one task", domain=True)
    play.add_argument("--seed", type=int, default=0)
    play.add_argument("--difficulty", choices=("shallow", "deep"), default="deep")


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"a range is LOW:HIGH, such as 2:500, got {text!r}")
    return int(low), int(high)


def _share_range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (1.0, 0.0)
    if not 0 <= found[0] <= found[1] <= 1:
        raise argparse.ArgumentTypeError(f"a range is LOW:HIGH in 0 to 1, got {text!r}")
    return found


def _made(setting: Setting, given: argparse.Namespace) -> list[WorldTask]:
    if given.file is not None:
        return read_tasks(given.file, setting)
    maker = TaskMaker(setting, seed=given.seed, difficulty=given.difficulty)
    return [next(maker) for _ in range(given.tasks)]


def _audit(given: argparse.Namespace) -> None:
    if is_foreign(given.domain):
        show(given, audit_foreign_set(foreign_of(given), given.tasks))
        return
    show(given, audit_domain(
        setting_of(given), num_tasks=num_tasks(given), seed=given.seed,
        difficulty=given.difficulty,
    ))  # fmt: skip


def _agents(given: argparse.Namespace) -> None:
    agent = load_agent(given.agent) if given.agent else None
    if is_foreign(given.domain):
        source = foreign_of(given)
        found = foreign_agents(source, given.tasks)
        if agent is not None:
            _beside(given, found, run_agent(source, agent, list(source.tasks)[: given.tasks]))
        show(given, found)
        return
    setting, number = setting_of(given), num_tasks(given)
    found = agents_domain(setting, num_tasks=number, seed=given.seed, difficulty=given.difficulty)
    if agent is not None:
        tasks = admitted(setting, seed=given.seed, difficulty=given.difficulty)
        _beside(given, found, run_agent(setting, agent, [next(tasks) for _ in range(number)]))
    show(given, found)


def _beside(given: argparse.Namespace, found: dict[str, Any], trials: list[Trial]) -> None:
    """Put a stranger's agent beside ours."""
    passed = sum(trial["passed"] for trial in trials)
    found["summary"]["yours"] = {"tried": len(trials), "passed": passed}
    found["rows"].append({"agent": given.agent, "kind": "yours", "tasks": len(trials),
                          "passed": passed, "rate": passed / max(1, len(trials))})  # fmt: skip
    reasons = sorted({trial["reason"] for trial in trials if trial["reason"]})
    if reasons:
        found["summary"]["yours"]["raised"] = reasons[:3]


def _grow(given: argparse.Namespace) -> None:
    setting = setting_of(given)
    tasks, summary = grow_figures(
        setting, num_tasks=given.tasks, seed=given.seed, difficulty=given.difficulty
    )
    write_tasks(given.out, tasks)
    show(given, {"summary": summary})


def _growth(given: argparse.Namespace) -> None:
    setting = setting_of(given)
    show(given, growth_figures(
        setting, num_environments=given.environments, seed=given.seed,
        num_goals=max(1, min(30, given.environments // 5)),
    ))  # fmt: skip


def _solve(given: argparse.Namespace) -> None:
    setting = setting_of(given)
    show(given, solve_figures(setting, _made(setting, given)))


def _difficulty(given: argparse.Namespace) -> None:
    setting = setting_of(given)
    bounds = Cut(writes=given.writes, attempts=given.attempts, pass_rate=given.pass_rate)
    if given.results is not None and not given.results.is_file():
        raise DomainError(f"--results must be a file that `run --out` kept, got {given.results}")
    try:
        rates = pass_rates(read_trials(given.results)) if given.results is not None else {}
    except ValueError as error:
        raise DomainError(str(error)) from None
    found = list(cut(setting, _made(setting, given), bounds, rates))
    kept = [task for task, _, is_kept in found if is_kept]
    write_tasks(given.out, kept)
    show(given, {
        "summary": {"domain": setting.spec.name, "tasks": len(found), "kept": len(kept)},
        "rows": [{**asdict(one), "kept": is_kept} for _, one, is_kept in found],
    })  # fmt: skip


def _play(given: argparse.Namespace) -> int:
    setting = setting_of(given)
    task = next(TaskMaker(setting, seed=given.seed, difficulty=given.difficulty))
    return play_in_terminal(setting, task)
