"""Verifier mutants: a goal with one thing dropped or changed must judge some chain otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from longcat_envs.tasks import Goal, Outcome, Tell, judge

DAMAGED = "damaged"


def goal_mutants(goal: Goal) -> Iterator[tuple[str, Goal]]:
    """Yield goals that ask for less, or for something else."""
    for record, values in goal.changed.items():
        rest = {key: value for key, value in goal.changed.items() if key != record}
        yield f"{record} dropped", replace(goal, changed=rest)
        for name in values:
            fewer = {key: value for key, value in values.items() if key != name}
            yield f"{record}.{name} dropped", replace(goal, changed={**rest, record: fewer})
            other = {**values, name: DAMAGED}
            yield f"{record}.{name} changed", replace(goal, changed={**rest, record: other})
    for name in ("made", "events", "touched", "refused"):
        items = getattr(goal, name)
        for place in range(len(items)):
            shorter = items[:place] + items[place + 1 :]
            yield f"{name} {items[place]} dropped", replace(goal, **{name: shorter})
    for place, tell in enumerate(goal.told):
        fewer = goal.told[:place] + goal.told[place + 1 :]
        yield f"telling {tell.what} dropped", replace(goal, told=fewer)
        yield f"telling {tell.what} changed", replace(goal, told=(*fewer, _other(tell)))


def _other(tell: Tell) -> Tell:
    value = "2031-01-01" if tell.kind == "date" else f"{tell.value}7"
    return replace(tell, value=value)


def unnoticed(goal: Goal, outcomes: Sequence[Outcome], *, withholds: bool) -> tuple[list[str], int]:
    """Return the mutants that judge every outcome as the goal does, and how many there were."""
    verdicts = [all(judge(goal, one, withholds=withholds).values()) for one in outcomes]
    alike: list[str] = []
    total = 0
    for name, mutant in goal_mutants(goal):
        total += 1
        if all(
            all(judge(mutant, one, withholds=withholds).values()) == verdict
            for one, verdict in zip(outcomes, verdicts, strict=True)
        ):
            alike.append(name)
    return alike, total
