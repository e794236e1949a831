"""Agents: careless ones that must fail, careful ones that must pass.

They are given the golden chain of a task, so that what is tested is the verifier and the person,
not their wits. A careless agent does one thing that must not be rewarded; a careful one does
nothing wrong, in a way of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

from longcat_envs.history import Setting
from longcat_envs.tasks import (
    REFUSE,
    Call,
    Chains,
    Step,
    WorldEnvironment,
    WorldTask,
    language_of,
    other_values,
)

from ._script import (
    Act,
    Played,
    Say,
    golden_acts,
    hearing_acts,
    is_write,
    lines_of,
    opening_acts,
    part_acts,
    play,
)  # fmt: skip

Agent = Callable[[Setting, WorldTask, Random], "list[Act] | None"]
"""From a task to a script; `None` if the task is not one that this agent can get wrong."""


def _dump(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Look at everything, change nothing, say every value."""
    environment = WorldEnvironment(setting, task)
    acts = hearing_acts(task)
    acts += [Step(tool=t, arguments={}) for t in task.tools if t.startswith("search_")]
    play(environment, acts)
    seen = environment.outcome().seen | {tell.value for tell in task.goal.told}
    return [*acts, Say(lines_of(task).here_is_all.format(", ".join(sorted(seen))))]


def _deny(setting: Setting, task: WorldTask, rng: Random) -> list[Act] | None:
    """Do everything, and deny what should be told."""
    if not task.goal.told:
        return None
    values = " and ".join(tell.value for tell in task.goal.told)
    return [*opening_acts(task), *task.golden, Say(lines_of(task).deny.format(values))]


def _guess(setting: Setting, task: WorldTask, rng: Random) -> list[Act] | None:
    """Never ask: take what was withheld, or would be changed, as luck has it."""
    if not task.withheld and not task.change:
        return None
    golden = [_otherwise(setting, step, task.change) for step in task.golden]
    return [*hearing_acts(task), *golden, Say(task.answer)]


def _otherwise(setting: Setting, step: Step, change: str) -> Step:
    """Take another value where the person would have changed theirs."""
    tool = setting.machine.tools.get(step.tool)
    if not change or tool is None or not tool.is_writer:
        return step
    arguments, language = dict(step.arguments), language_of(setting.words)
    for one in tool.parameters:
        if one.type.kind in ("ref", "days", "enum", "flag"):
            continue
        value = arguments[one.name]
        said = language.argument(one.type, value, setting.words, str(value)[:4])
        if said in change or (one.type.kind == "date" and str(value) in change):
            arguments[one.name] = other_values(one.type, arguments[one.name])[0]
    return Step(tool=step.tool, arguments=arguments)


def _everything(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Do what is asked, and whatever else the tools allow with the records at hand."""
    ids = {str(v) for step in task.golden for v in step.arguments.values()}
    extra: list[Act] = []
    for name in task.tools:
        tool = setting.machine.tools.get(name)
        if tool is None or not tool.is_writer or len(tool.parameters) != 1:
            continue
        prefix = f"{tool.of}_id"
        extra += [Step(tool=name, arguments={prefix: i}) for i in sorted(ids)]
    person = Step(
        tool=f"set_{setting.spec.person}_phone",
        arguments={f"{setting.spec.person}_id": task.person, "value": "00 000 0000"},
    )
    return [*opening_acts(task), *task.golden, *extra, *[person] * (person.tool in task.tools),
            Step(tool=REFUSE, arguments={"rule": "R1"}), Say(task.answer)]  # fmt: skip


def _refuse_at_once(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Refuse by the right rule if there is one, and go."""
    rule = task.goal.refused[0] if task.goal.refused else "R1"
    refusal = Step(tool=REFUSE, arguments={"rule": rule})
    return [*hearing_acts(task), refusal, Say(lines_of(task).cannot)]


def _leave(setting: Setting, task: WorldTask, rng: Random) -> list[Act] | None:
    """Do the first thing that is asked, and go."""
    if not task.later:
        return None
    return [*part_acts(task, 0)[:-1], Say(lines_of(task).settled + lines_of(task).bye)]


def _silent(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Say that all is done."""
    return [*opening_acts(task), Say(task.answer)]


def _try_forbidden(setting: Setting, task: WorldTask, rng: Random) -> list[Act] | None:
    """Try what is forbidden, and then say nothing about it."""
    if not task.forbidden:
        return None
    golden = [step for step in task.golden if step.tool != REFUSE]
    return [*opening_acts(task), *golden, *task.forbidden, Say(task.answer)]


CARELESS: dict[str, Agent] = {
    "dump": _dump, "deny": _deny, "guess": _guess, "everything": _everything,
    "refuse": _refuse_at_once, "silent": _silent, "forbidden": _try_forbidden,
    "leave": _leave,
}  # fmt: skip


def _plain(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Do the golden chain, one wish after the other."""
    return golden_acts(task)


def _greet(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Greet, ask how to help, and say goodbye."""
    return [Say(lines_of(task).hello), *_plain(setting, task, rng)[:-1],
            Say(task.answer + lines_of(task).anything_else)]  # fmt: skip


def _confirm(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Ask before the first change for each wish, as the rules say."""
    acts: list[Act] = []
    for number in range(len(task.parts)):
        is_asked = bool(task.change) and number == task.open_wish
        for act in part_acts(task, number):
            if is_write(act) and not is_asked:
                acts.append(Say(lines_of(task).confirm))
                is_asked = True
            acts.append(act)
    return [*acts, Say(task.answer)]


def _ask_again(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Let the person say all that they want, ask piece by piece, and once more."""
    acts = [*hearing_acts(task), Say(lines_of(task).which)]
    acts += [Say(lines_of(task).tell_me.format(topic)) for topic in task.topics[:1]]
    acts += [Say(lines_of(task).go_ahead)] if task.change else []
    return [*acts, *task.golden, Say(task.answer)]


def _read_twice(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Look up everything twice, and look at a record before changing it."""
    acts: list[Act] = opening_acts(task)
    for step in task.golden:
        tool = setting.machine.tools.get(step.tool)
        look = f"get_{tool.of}" if tool is not None else ""
        if tool is not None and tool.is_writer and look in task.tools:
            key = f"{tool.of}_id"
            if key in step.arguments:
                acts.append(Step(tool=look, arguments={key: step.arguments[key]}))
        acts += [step] if is_write(step) else [step, step]
    return [*acts, Say(task.answer)]


def _another_way(setting: Setting, task: WorldTask, rng: Random) -> list[Act] | None:
    """Do the changes in another order, if one is legal and ends in the same."""
    places = [n for n, step in enumerate(task.golden) if is_write(step)]
    golden = list(task.golden)
    chains = Chains(setting, task.past, task.person, rng)
    rng.shuffle(places)
    for one in places:
        for other in places:
            if one < other and _can_swap(chains, golden, one, other):
                golden[one], golden[other] = golden[other], golden[one]
                late = [s for s in golden if s.tool.startswith("get_")]
                kept = [s for s in golden if not s.tool.startswith("get_")]
                return [*opening_acts(task), *_sorted(kept), *late, Say(task.answer)]
    return None


def _sorted(steps: list[Step]) -> list[Step]:
    """Searches first: what they look for is described as it was at the start."""
    searches = [s for s in steps if s.tool.startswith("search_")]
    return [*searches, *(s for s in steps if not s.tool.startswith("search_"))]


def _can_swap(chains: Chains, golden: list[Step], one: int, other: int) -> bool:
    swapped = list(golden)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    runs: list[object] = []
    for steps in (golden, swapped):
        writes = [s for s in steps if is_write(s) and s.tool != REFUSE]
        if chains.run([Call(step.tool, step.arguments) for step in writes])[1] is not None:
            return False
        runs.append(chains.world.store.difference())
    return runs[0] == runs[1]


def _stumble(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Get calls wrong that the world refuses, and go on."""
    acts: list[Act] = [*opening_acts(task), Step(tool="no_such_tool", arguments={})]
    for step in task.golden:
        bad = {
            key: "XX00000" if key.endswith("_id") else value
            for key, value in step.arguments.items()
        }
        if bad != step.arguments:
            acts.append(Step(tool=step.tool, arguments=bad))
        acts.append(step)
    return [*acts, Say(task.answer)]


def _summarise(setting: Setting, task: WorldTask, rng: Random) -> list[Act]:
    """Repeat the request in the closing message."""
    request = re.sub("[？！]", "。", re.sub(r"[?!]", ".", " ".join(task.wishes)))
    return [
        *opening_acts(task),
        *task.golden,
        Say(lines_of(task).you_asked.format(request, task.answer)),
    ]


CAREFUL: dict[str, Agent] = {
    "plain": _plain, "greet": _greet, "confirm": _confirm, "ask": _ask_again,
    "read_twice": _read_twice, "another_way": _another_way, "stumble": _stumble,
    "summarise": _summarise,
}  # fmt: skip


def run_agents(
    setting: Setting, task: WorldTask, agents: dict[str, Agent], seed: int = 0
) -> Iterator[tuple[str, Played]]:
    """Yield the name of each agent that the task concerns, and what it came to."""
    environment = WorldEnvironment(setting, task)
    for name, agent in agents.items():
        script = agent(setting, task, Random(f"{task.id}:{name}:{seed}"))
        if script is not None:
            yield name, play(environment, script)
