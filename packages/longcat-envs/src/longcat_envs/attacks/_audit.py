"""The audit of a task from four sides; a task is admitted only if nothing is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from longcat_envs.history import Setting
from longcat_envs.tasks import Difficulty, TaskMaker, WorldEnvironment, WorldTask

from ._agents import CAREFUL, CARELESS, run_agents
from ._chains import wrong_chains
from ._mutants import unnoticed
from ._script import golden_acts, play
from ._words import word_faults


@dataclass(slots=True)
class Finding:
    """What the audit of one task found."""

    faults: list[str] = field(default_factory=list[str])
    num_chains: int = 0
    num_mutants: int = 0
    unnoticed: list[str] = field(default_factory=list[str])
    careless_passed: list[str] = field(default_factory=list[str])
    careful_failed: list[str] = field(default_factory=list[str])


def audit_task(setting: Setting, task: WorldTask) -> Finding:
    """Attack a task: chains, verifier, words and agents."""
    found = Finding()
    environment = WorldEnvironment(setting, task)
    golden = play(environment, golden_acts(task))
    if golden.errors or not golden.passed:
        found.faults.append(f"the golden chain fails: {golden.errors[:1]}")
        return found
    found.faults += word_faults(setting, task, environment)
    outcomes = [golden.outcome]
    for name, script in wrong_chains(setting, task, Random(f"{task.id}:chains")):
        played = play(environment, script)
        found.num_chains += 1
        outcomes.append(played.outcome)
        if played.passed:
            found.faults.append(f"a wrong chain passes: {name}")
    found.unnoticed, found.num_mutants = unnoticed(
        task.goal, outcomes, withholds=bool(task.withheld)
    )
    found.faults += [f"a mutant of the verifier is not noticed: {name}" for name in found.unnoticed]
    for name, played in run_agents(setting, task, CARELESS):
        if played.passed:
            found.careless_passed.append(name)
            found.faults.append(f"a careless agent passes: {name}")
    for name, played in run_agents(setting, task, CAREFUL):
        if not played.passed:
            found.careful_failed.append(name)
            found.faults.append(f"a careful agent fails: {name}")
    return found


def admitted(
    setting: Setting, *, seed: int, difficulty: Difficulty = "deep"
) -> Iterator[WorldTask]:
    """Yield tasks in which the audit finds nothing."""
    for task in TaskMaker(setting, seed=seed, difficulty=difficulty):
        if not audit_task(setting, task).faults:
            yield task


def audit_domain(
    setting: Setting, *, num_tasks: int, seed: int = 0, difficulty: Difficulty = "deep"
) -> dict[str, Any]:
    """Audit tasks as they are made, before any is turned away; return the figures."""
    maker = TaskMaker(setting, seed=seed, difficulty=difficulty)
    kinds: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    total = Finding()
    for _ in range(num_tasks):
        task = next(maker)
        found = audit_task(setting, task)
        total.num_chains += found.num_chains
        total.num_mutants += found.num_mutants
        total.unnoticed += found.unnoticed
        kinds.update(fault.split(":")[0] for fault in set(found.faults))
        rows.append({"task": task.id, "faults": found.faults, "tags": list(task.tags)})
    num_faulty = sum(bool(row["faults"]) for row in rows)
    return {
        "summary": {
            "domain": setting.spec.name, "difficulty": difficulty, "tasks": num_tasks,
            "admitted": num_tasks - num_faulty, "rejected": num_faulty,
            "wrong_chains": total.num_chains, "verifier_mutants": total.num_mutants,
            "mutants_admitted": len(total.unnoticed), "faults": dict(kinds.most_common()),
        },
        "rows": rows,
    }  # fmt: skip


def agents_domain(
    setting: Setting, *, num_tasks: int, seed: int = 0, difficulty: Difficulty = "deep"
) -> dict[str, Any]:
    """Return the pass rates of careless and careful agents on admitted tasks."""
    tried: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    tasks = admitted(setting, seed=seed, difficulty=difficulty)
    for _ in range(num_tasks):
        task = next(tasks)
        for kind, agents in (("careless", CARELESS), ("careful", CAREFUL)):
            for name, played in run_agents(setting, task, agents, seed=1):
                tried[f"{kind}/{name}"] += 1
                passed[f"{kind}/{name}"] += played.passed
    rows = [
        {"agent": name.split("/")[1], "kind": name.split("/")[0], "tasks": count,
         "passed": passed[name], "rate": passed[name] / count}
        for name, count in sorted(tried.items())
    ]  # fmt: skip
    by_kind = {
        kind: {
            "tried": sum(n for name, n in tried.items() if name.startswith(f"{kind}/")),
            "passed": sum(n for name, n in passed.items() if name.startswith(f"{kind}/")),
        }
        for kind in ("careless", "careful")
    }
    return {"summary": {"domain": setting.spec.name, "tasks": num_tasks, **by_kind}, "rows": rows}
