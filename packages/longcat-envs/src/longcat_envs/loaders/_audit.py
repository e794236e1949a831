"""The audit of somebody else's tasks: does the verifier tell right from wrong, does the gold hold?

Nothing of it knows a task; the golden calls are replayed, and scripts that must fail or must pass
are played against the set's own verifier.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from longcat_envs._database import ToolError
from longcat_envs._fields import DomainError
from longcat_envs._task import Reward
from longcat_envs.tasks import Step

from ._environment import ForeignEnvironment, Turns
from ._types import ForeignSet, ForeignTask
from ._words import contradictions

Script = Sequence[tuple[Sequence[Step], str]]
"""For each turn the calls, and the message that ends it."""

DONE = "All of that is done now."
CONFIRM = "I have found what I need. Shall I go on?"


@dataclass(slots=True)
class ForeignFinding:
    """What the audit of one task found."""

    task: str
    num_calls: int = 0
    num_writes: int = 0
    careless: dict[str, bool] = field(default_factory=dict[str, bool])
    """Whether each careless agent that this task concerns passed."""
    careful: dict[str, bool] = field(default_factory=dict[str, bool])
    """Whether each careful agent passed; none is tried where the golden calls fail."""
    drops: int = 0
    drops_passed: int = 0
    """Golden writes of which leaving one out still passes."""
    reads: int = 0
    reads_missed: int = 0
    """Golden reads of which leaving one out fails, though the world ends in the same state."""
    reads_refused: int = 0
    """Golden reads that find nothing."""
    gold: list[str] = field(default_factory=list[str])
    """What is wrong with the golden calls or contradicts the text."""


def play(environment: ForeignEnvironment, script: Script) -> tuple[bool, list[str], Any]:
    """Play a script; return whether it passed, the errors, and the state it ends in."""
    environment.start()
    errors: list[str] = []
    for calls, message in script:
        for step in calls:
            call = {"function": {"name": step.tool, "arguments": step.arguments}}
            result = environment.call_now(call)
            if result.is_error:
                errors.append(f"{step.tool}: {result.content[:200]}")
        environment.hear(message)
    score = environment.score_now()
    passed = isinstance(score, Reward) and score.total == 1.0
    return passed, errors, environment.session.state()


def audit_foreign(
    source: ForeignSet, task: ForeignTask, pool: Sequence[str] = (), writers: Set[str] = frozenset()
) -> ForeignFinding:
    """Attack one task.

    Args:
        source: Its set.
        task: The task.
        pool: Values that an agent might list without having looked.
        writers: Tools that change the world in some golden call of the set: a refusal of theirs is
            a fault of the golden calls, a reader that finds nothing is none.
    """
    environment = ForeignEnvironment(source, task)
    found = ForeignFinding(task.id, sum(map(len, task.golden)))
    told = " ".join([DONE, *task.told])
    gold = _script(task, told)
    passed, errors, state = play(environment, gold)
    if not passed:
        found.gold.append("the golden calls fail the verifier")
    refused = [error for error in dict.fromkeys(errors) if error.split(":")[0] in writers]
    found.gold += [f"a golden write is refused: {error}" for error in refused]
    found.reads_refused = len(errors) - len(refused)
    found.gold += contradictions(source, task)
    found.gold += [f"a rule is broken: {rule}" for rule in source.breaches(task)]
    writes = _writes(source, task)
    found.num_writes = len(writes)
    _drop(environment, gold, state, writes, found)
    for name, script in _careless(task, gold, pool):
        found.careless[name] = play(environment, script)[0]
    if passed:
        can_answer = not isinstance(source.person(task), Turns)
        for name, script in _careful(gold, writes, can_answer=can_answer):
            found.careful[name] = play(environment, script)[0]
    return found


def _script(task: ForeignTask, last: str) -> Script:
    lines = [DONE] * (len(task.golden) - 1) + [last]
    return list(zip(task.golden, lines, strict=True))


def _writes(source: ForeignSet, task: ForeignTask) -> set[tuple[int, int]]:
    """Places of golden calls that change the world."""
    session, found = source.begin(task), set[tuple[int, int]]()
    before = session.state()
    for turn, steps in enumerate(task.golden):
        for place, step in enumerate(steps):
            with contextlib.suppress(ToolError):
                session.call(step.tool, step.arguments)
            after = session.state()
            if after != before:
                found.add((turn, place))
            before = after
    return found


def _drop(
    environment: ForeignEnvironment, gold: Script, state: Any, writes: set[tuple[int, int]],
    found: ForeignFinding,
) -> None:  # fmt: skip
    """Leave out one golden call after another."""
    for turn, (calls, message) in enumerate(gold):
        for place, step in enumerate(calls):
            kept = [*calls[:place], *calls[place + 1 :]]
            script = [*gold[:turn], (kept, message), *gold[turn + 1 :]]
            passed, _, ended = play(environment, script)
            if (turn, place) not in writes:
                found.reads += 1
                found.reads_missed += not passed and ended == state
                continue
            found.drops += 1
            found.drops_passed += passed
            if passed and ended == state:
                found.gold.append(f"a write that makes no difference: {step.tool}")


def _careless(task: ForeignTask, gold: Script, pool: Sequence[str]) -> list[tuple[str, Script]]:
    """Scripts that must not be rewarded."""
    nothing: list[tuple[Sequence[Step], str]] = [([], DONE) for _ in task.golden]
    found: list[tuple[str, Script]] = [("silent", nothing)]
    if task.told:
        values = " and ".join(task.told)
        dump: Script = [
            *nothing[:-1],
            ([], "Here is all: " + ", ".join(sorted({*pool, *task.told}))),
        ]
        deny = [*gold[:-1], (gold[-1][0], f"I do not think that it is {values}.")]
        found += [("dump", dump), ("deny", deny)]
    return found


def _careful(
    gold: Script, writes: set[tuple[int, int]], *, can_answer: bool
) -> list[tuple[str, Script]]:
    """Scripts that are as right as the golden calls."""
    twice = [
        ([s for place, step in enumerate(calls)
          for s in ([step] if (turn, place) in writes else [step, step])], message)
        for turn, (calls, message) in enumerate(gold)
    ]  # fmt: skip
    stumble = [([Step(tool="no_such_tool", arguments={}), *calls] if calls else calls, message)
               for calls, message in gold]  # fmt: skip
    found: list[tuple[str, Script]] = [("plain", gold), ("read_twice", twice), ("stumble", stumble)]
    if can_answer:
        thank = (gold[-1][0], gold[-1][1] + " Thank you for calling.")
        found += [("confirm", [([], CONFIRM), *gold]), ("thank", [*gold[:-1], thank])]
    return found


def audit_foreign_set(source: ForeignSet, num_tasks: int | None = None) -> dict[str, Any]:
    """Attack the first tasks of a set, or all; return the figures.

    Raises:
        DomainError: An episode has changed what all episodes share.
    """
    rows = _findings(source, num_tasks)
    kinds = Counter(kind for row in rows for kind in {fault.split(":")[0] for fault in row.gold})
    tasks = list(source.tasks)[:num_tasks]
    return {
        "summary": {
            "set": source.name, "version": source.version, "tasks": len(rows),
            "golden_calls": sum(row.num_calls for row in rows),
            "golden_writes": sum(row.num_writes for row in rows),
            "careless": _counted([row.careless for row in rows]),
            "silent_though_gold_writes":
                sum(row.careless.get("silent", False) and row.num_writes > 0 for row in rows),
            "writes_left_out": {"tried": sum(row.drops for row in rows),
                                "passed": sum(row.drops_passed for row in rows)},
            "reads_left_out": {"tried": sum(row.reads for row in rows),
                               "failed_in_the_same_state": sum(row.reads_missed for row in rows)},
            "reads_refused": sum(row.reads_refused for row in rows),
            "careful": _counted([row.careful for row in rows]),
            "gold_faulty": sum(bool(row.gold) for row in rows), "gold": dict(kinds.most_common()),
            "unjudged": sorted({kind for task in tasks for kind in task.unjudged}),
        },
        "rows": [
            {"task": row.task, "calls": row.num_calls, "writes": row.num_writes,
             "careless_passed": [name for name, passed in row.careless.items() if passed],
             "careful_failed": [name for name, passed in row.careful.items() if not passed],
             "writes_left_out_passed": row.drops_passed, "faults": row.gold}
            for row in rows
        ],
    }  # fmt: skip


def foreign_agents(source: ForeignSet, num_tasks: int | None = None) -> dict[str, Any]:
    """Return the pass rates of careless and careful agents on a set's tasks."""
    rows = _findings(source, num_tasks)
    kinds = {"careless": _counted([row.careless for row in rows]),
             "careful": _counted([row.careful for row in rows])}  # fmt: skip
    return {
        "summary": {"set": source.name, "version": source.version, "tasks": len(rows), **{
            kind: {what: sum(one[what] for one in counts.values()) for what in ("tried", "passed")}
            for kind, counts in kinds.items()
        }},
        "rows": [
            {"agent": name, "kind": kind, "tasks": one["tried"], "passed": one["passed"],
             "rate": one["passed"] / one["tried"]}
            for kind, counts in kinds.items() for name, one in counts.items()
        ],
    }  # fmt: skip


def _findings(source: ForeignSet, num_tasks: int | None) -> list[ForeignFinding]:
    pool = sorted({value for task in source.tasks for value in task.told})
    writers = {task.golden[turn][place].tool
               for task in source.tasks for turn, place in _writes(source, task)}  # fmt: skip
    tasks = list(source.tasks)[:num_tasks]
    rows = [audit_foreign(source, task, pool, writers) for task in tasks]
    if not source.intact():
        raise DomainError(f"{source.name}: an episode has changed what all episodes share")
    return rows


def _counted(outcomes: Sequence[dict[str, bool]]) -> dict[str, dict[str, int]]:
    names = dict.fromkeys(name for one in outcomes for name in one)
    return {
        name: {"tried": sum(name in one for one in outcomes),
               "passed": sum(one.get(name, False) for one in outcomes)}
        for name in names
    }  # fmt: skip
