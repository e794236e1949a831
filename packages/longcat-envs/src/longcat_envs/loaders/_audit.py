"""The audit of somebody else's tasks: does the verifier tell right from wrong, does the gold hold?

Nothing of it knows a task; the golden calls are replayed, and scripts that must fail or must pass
are played against the set's own verifier.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from longcat_envs._database import ToolError
from longcat_envs._fields import DomainError
from longcat_envs._task import Reward
from longcat_envs.tasks import Step

from ._environment import ForeignEnvironment, Turns
from ._hands import request
from ._types import ForeignSet, ForeignTask, Session, TwoSided, inner
from ._words import contradictions

DONE = "All of that is done now."
CONFIRM = "I have found what I need. Shall I go on?"

MAX_EXTRAS = 40
"""Golden writes of other tasks that are tried as one act too much."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a script: calls, and the message that ends it."""

    calls: Sequence[Step]
    message: str = DONE
    asked: Sequence[Step] = ()
    """What the person is asked to do; the message comes after it."""

    @property
    def text(self) -> str:
        """All that is said."""
        return f"{request(self.asked)} {self.message}".strip() if self.asked else self.message

    def without(self, place: int) -> Turn:
        """Leave out one call; those that the person is asked for come after the others."""
        calls, asked = list(self.calls), list(self.asked)
        if place < len(calls):
            del calls[place]
        else:
            del asked[place - len(calls)]
        return replace(self, calls=calls, asked=asked)


Script = Sequence[Turn]


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
    for turn in script:
        for step in turn.calls:
            call = {"function": {"name": step.tool, "arguments": step.arguments}}
            result = environment.call_now(call)
            if result.is_error:
                errors.append(f"{step.tool}: {result.content[:200]}")
        environment.hear(turn.text)
    score = environment.score_now()
    passed = isinstance(score, Reward) and score.total == 1.0
    return passed, errors, environment.session.state()


def audit_foreign(
    source: ForeignSet, task: ForeignTask, pool: Sequence[str] = (),
    writers: Set[str] = frozenset(), extras: Sequence[Step] = (),
) -> ForeignFinding:  # fmt: skip
    """Attack one task.

    Args:
        source: Its set.
        task: The task.
        pool: Values that an agent might list without having looked.
        writers: Tools that change the world in some golden call of the set: a refusal of theirs is
            a fault of the golden calls, a reader that finds nothing is none.
        extras: Calls of other tasks that an agent might make too.
    """
    environment = ForeignEnvironment(source, task)
    found = ForeignFinding(task.id, sum(map(len, (*task.golden, *task.asked))))
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
    careless = [*_careless(task, gold, pool), *_one_sided(gold, writes)]
    if passed:
        careless += _too_much(source, task, gold, extras)
    for name, script in careless:
        found.careless[name] = play(environment, script)[0]
    if passed:
        can_answer = not isinstance(source.person(task), Turns)
        for name, script in _careful(gold, writes, can_answer=can_answer):
            found.careful[name] = play(environment, script)[0]
    return found


def _script(task: ForeignTask, last: str) -> Script:
    """Return the golden calls as a script; who asks the person for something waits for it."""
    if not task.asked:
        return [*(Turn(calls) for calls in task.golden[:-1]), Turn(task.golden[-1], last)]
    turns = [Turn(calls, "", asked) for calls, asked in zip(task.golden, task.asked, strict=True)]
    return [
        *(turn for turn in turns if turn.asked),
        Turn(() if turns[-1].asked else turns[-1].calls, last),
    ]


def _run(session: Session, turn: Turn, place: int) -> None:
    """Run one call of a script, of either side."""
    if place >= len(turn.calls):
        assert isinstance(session, TwoSided)
        step = turn.asked[place - len(turn.calls)]
        session.act(step.tool, step.arguments)
        return
    step = turn.calls[place]
    with contextlib.suppress(ToolError):
        session.call(step.tool, step.arguments)


def _places(script: Script) -> list[tuple[int, int]]:
    """Return the places of all calls: turn, and number within it, those of the person last."""
    return [(number, place) for number, turn in enumerate(script)
            for place in range(len(turn.calls) + len(turn.asked))]  # fmt: skip


def _writes(source: ForeignSet, task: ForeignTask) -> set[tuple[int, int]]:
    """Places of golden calls that change the world."""
    session, script, found = source.begin(task), _script(task, ""), set[tuple[int, int]]()
    before = session.state()
    for number, place in _places(script):
        _run(session, script[number], place)
        after = session.state()
        if after != before:
            found.add((number, place))
        before = after
    return found


def _drop(
    environment: ForeignEnvironment, gold: Script, state: Any, writes: set[tuple[int, int]],
    found: ForeignFinding,
) -> None:  # fmt: skip
    """Leave out one golden call after another."""
    for number, place in _places(gold):
        turn = gold[number]
        script = [*gold[:number], turn.without(place), *gold[number + 1 :]]
        passed, _, ended = play(environment, [one for one in script if one.text])
        if (number, place) not in writes:
            found.reads += 1
            found.reads_missed += not passed and ended == state
            continue
        found.drops += 1
        found.drops_passed += passed
        tool = inner(_step(turn, place)).tool
        if passed and ended == state and not tool.startswith("get_"):  # a look that is logged
            found.gold.append(f"a write that makes no difference: {tool}")


def _step(turn: Turn, place: int) -> Step:
    return [*turn.calls, *turn.asked][place]


def _one_sided(gold: Script, writes: set[tuple[int, int]]) -> list[tuple[str, Script]]:
    """Scripts in which one of two sides does nothing, though it must change something."""
    if not any(turn.asked for turn in gold):
        return []
    mine = any(place < len(gold[number].calls) for number, place in writes)
    theirs = any(place >= len(gold[number].calls) for number, place in writes)
    calls = [step for turn in gold for step in turn.calls]
    found: list[tuple[str, Script]] = []
    if theirs:
        found.append(("agent_alone", [Turn(calls, gold[-1].message)]))
    if mine:
        found.append(("person_alone", [replace(turn, calls=()) for turn in gold]))
    return found


def _too_much(
    source: ForeignSet, task: ForeignTask, gold: Script, extras: Sequence[Step]
) -> list[tuple[str, Script]]:
    """The golden calls and one more, of another task, that changes the world further."""
    session = source.begin(task)
    for number, place in _places(gold):
        _run(session, gold[number], place)
    before, own = session.state(), [step for turn in gold for step in turn.calls]
    offered = {schema["function"]["name"] for schema in task.tools}
    for extra in [e for e in extras if e not in own and e.tool in offered][:MAX_EXTRAS]:
        with contextlib.suppress(ToolError):
            session.call(extra.tool, extra.arguments)
        if session.state() != before:
            last = replace(gold[-1], calls=[*gold[-1].calls, extra])
            return [("one_too_many", [*gold[:-1], last])]
    return []


def _careless(task: ForeignTask, gold: Script, pool: Sequence[str]) -> list[tuple[str, Script]]:
    """Scripts that must not be rewarded."""
    nothing = [Turn(()) for _ in gold]
    found: list[tuple[str, Script]] = [("silent", nothing)]
    if task.told:
        values = " and ".join(task.told)
        everything = "Here is all: " + ", ".join(sorted({*pool, *task.told}))
        deny = replace(gold[-1], message=f"I do not think that it is {values}.")
        found += [("dump", [*nothing[:-1], Turn((), everything)]), ("deny", [*gold[:-1], deny])]
    return found


def _careful(
    gold: Script, writes: set[tuple[int, int]], *, can_answer: bool
) -> list[tuple[str, Script]]:
    """Scripts that are as right as the golden calls."""
    twice = [
        replace(turn, calls=[s for place, step in enumerate(turn.calls)
                             for s in ([step] if (number, place) in writes else [step, step])])
        for number, turn in enumerate(gold)
    ]  # fmt: skip
    wrong = Step(tool="no_such_tool", arguments={})
    stumble = [replace(turn, calls=[wrong, *turn.calls]) if turn.calls else turn for turn in gold]
    found: list[tuple[str, Script]] = [("plain", gold), ("read_twice", twice), ("stumble", stumble)]
    if can_answer:
        thank = replace(gold[-1], message=gold[-1].message + " Thank you for calling.")
        found += [("confirm", [Turn((), CONFIRM), *gold]), ("thank", [*gold[:-1], thank])]
    if any(len(turn.asked) > 1 for turn in gold):
        found.append(("one_by_one", _one_by_one(gold)))
    return found


def _one_by_one(gold: Script) -> Script:
    """Ask the person for one act in each message."""
    found: list[Turn] = []
    for turn in gold:
        first = Turn(turn.calls, turn.message, turn.asked[:1])
        found += [first, *(Turn((), turn.message, [step]) for step in turn.asked[1:])]
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
    written = [_step(_script(task, "")[turn], place) for task in source.tasks
               for turn, place in sorted(_writes(source, task))]  # fmt: skip
    extras = list({json.dumps([s.tool, s.arguments]): s for s in written}.values())
    tasks = list(source.tasks)[:num_tasks]
    writers = {step.tool for step in written}
    rows = [audit_foreign(source, task, pool, writers, extras) for task in tasks]
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
