"""How hard a task is: chain, branching, the blind solver's attempts, and pass rates of policies.

A set of tasks is cut by these figures, so that it is neither trivial nor hopeless for whom it is
meant for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from .history import Setting
from .tasks import MAX_NODES, Solution, WorldTask, solve


@dataclass(frozen=True, slots=True)
class Hardness:
    """The figures of one task."""

    task: str
    writes: int
    """Golden calls that change or refuse something."""
    calls: int
    branching: float
    """Mean number of writing tools whose ids are at hand when a golden write is made."""
    attempts: int
    """Calls that the blind solver tried."""
    is_solved: bool
    """Whether the blind solver found a chain."""
    pass_rate: float | None = None
    """Share of episodes that passed, of given policies; `None` if none was run."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Bounds, ends included, within which tasks are kept; `None` is no bound."""

    writes: tuple[int, int] | None = None
    attempts: tuple[int, int] | None = None
    pass_rate: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("writes", "attempts", "pass_rate"):
            bounds = getattr(self, name)
            if bounds is not None and not 0 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be a range low:high from 0 on, got {bounds}")

    def keeps(self, one: Hardness) -> bool:
        """Whether a task of these figures is kept; one whose rate is not known is not."""
        figures = ((self.writes, one.writes), (self.attempts, one.attempts),
                   (self.pass_rate, one.pass_rate))  # fmt: skip
        return all(
            bounds is None or (value is not None and bounds[0] <= value <= bounds[1])
            for bounds, value in figures
        )


def branching(setting: Setting, task: WorldTask) -> float:
    """Return how many writing tools could be tried, on average, where the golden chain writes."""
    tools = [setting.machine.tools[n] for n in task.tools if n in setting.machine.tools]
    at_hand, counts = set[str](), list[int]()
    for step in task.golden:
        tool = setting.machine.tools.get(step.tool)
        if tool is not None and not tool.is_writer:
            at_hand |= tool.yields | tool.needs
        elif tool is not None:
            counts.append(sum(other.is_writer and other.needs <= at_hand for other in tools))
            at_hand |= tool.yields
    return round(mean(counts), 1) if counts else 0.0


def measure(
    setting: Setting,
    task: WorldTask,
    *,
    max_nodes: int = MAX_NODES,
    pass_rates: Mapping[str, float] | None = None,
) -> tuple[Hardness, Solution]:
    """Return the figures of a task, and what the solver found.

    Args:
        setting: The task's domain.
        task: The task.
        max_nodes: Calls that the solver may try.
        pass_rates: Shares of passed episodes by the id of the task.
    """
    solution = solve(setting, task, max_nodes=max_nodes)
    rate = (pass_rates or {}).get(task.id)
    return Hardness(
        task.id, len(task.writes), len(task.golden), branching(setting, task),
        solution.attempts, solution.is_found, rate,
    ), solution  # fmt: skip


def solve_figures(setting: Setting, tasks: Iterable[WorldTask]) -> dict[str, Any]:
    """Run the blind solver on tasks; return what it cannot find, and its other chains."""
    rows: list[dict[str, Any]] = []
    attempts: list[int] = []
    for task in tasks:
        found = solve(setting, task)
        attempts.append(found.attempts)
        row: dict[str, Any] = {"task": task.id, "found": found.is_found, "attempts": found.attempts}
        if found.is_found and not found.is_golden:
            row["loophole"] = [f"{s.tool} {s.arguments}" for s in found.steps]
            row["golden"] = [f"{s.tool} {s.arguments}" for s in task.golden]
        rows.append(row)
    num = max(1, len(rows))
    num_found = sum(row["found"] for row in rows)
    return {
        "summary": {
            "domain": setting.spec.name, "tasks": len(rows), "found": num_found,
            "share_not_found": round(1 - num_found / num, 3) if rows else 0.0,
            "loopholes": sum("loophole" in row for row in rows), "max_nodes": MAX_NODES,
            "attempts_median": median(attempts) if attempts else 0,
        },
        "rows": rows,
    }  # fmt: skip


def cut(
    setting: Setting, tasks: Iterable[WorldTask], bounds: Cut,
    pass_rates: Mapping[str, float] | None = None,
) -> Iterator[tuple[WorldTask, Hardness, bool]]:  # fmt: skip
    """Yield each task with its figures and whether it is kept."""
    for task in tasks:
        one, _ = measure(setting, task, pass_rates=pass_rates)
        yield task, one, bounds.keeps(one)
