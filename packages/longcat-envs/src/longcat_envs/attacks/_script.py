"""Scripts: what an agent says and calls, played in one environment without waiting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from longcat_envs.tasks import Outcome, Step, WorldEnvironment, WorldTask

ASK = "Could you tell me which details you left out, please?"
CONFIRM = "I have found what I need. Shall I go on?"


@dataclass(frozen=True, slots=True)
class Say:
    """A message to the person."""

    text: str


Act = Step | Say


@dataclass(frozen=True, slots=True)
class Played:
    """What a script came to."""

    outcome: Outcome
    passed: bool
    errors: tuple[str, ...]
    """Calls that were refused, as tool and answer."""
    last: Any = None


def play(environment: WorldEnvironment, acts: Iterable[Act]) -> Played:
    """Play a script from the start."""
    environment.start()
    errors: list[str] = []
    for act in acts:
        if isinstance(act, Say):
            environment.hear(act.text)
            continue
        call = {"function": {"name": act.tool, "arguments": act.arguments}}
        result = environment.call_now(call)
        if result.is_error:
            errors.append(f"{act.tool}: {result.content}")
    score = environment.score_now()
    passed = getattr(score, "total", 0.0) == 1.0
    return Played(environment.outcome(), passed, tuple(errors))


def opening_acts(task: WorldTask) -> list[Act]:
    """Return what must be said before anything is done."""
    acts: list[Act] = [Say(ASK)] if task.withheld else []
    return [*acts, Say(CONFIRM)] if task.change else acts


def golden_acts(task: WorldTask) -> list[Act]:
    """Return the golden script."""
    return [*opening_acts(task), *task.golden, Say(task.answer)]


def is_write(step: Act) -> bool:
    """Whether an act is a call that changes or refuses something."""
    return isinstance(step, Step) and not step.tool.startswith(("search_", "get_"))
