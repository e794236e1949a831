"""Chains that must fail: dropped, perturbed, stopped early, one act too much, done and undone."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from longcat_envs.history import Caller, Setting
from longcat_envs.tasks import REFUSE, Step, WorldTask, with_other_values
from longcat_envs.world import CallRefused, LiveWorld, Tool

from ._script import (
    Act,
    Say,
    golden_acts,
    hearing_acts,
    is_write,
    lines_of,
    opening_acts,
    part_acts,
)

EXTRA, OTHERS = 8, 2
"""Acts too many that are tried, and other values for each argument."""


def wrong_chains(setting: Setting, task: WorldTask, rng: Random) -> Iterator[tuple[str, list[Act]]]:
    """Yield scripts that must not be rewarded, each with its name."""
    opening, closing = opening_acts(task), Say(task.answer)
    golden = list[Act](task.golden)
    yield "nothing at all", [Say("Done.")]
    yield "the answer alone", [*opening, closing]
    yield "no closing", [*opening, *golden]
    if task.withheld:
        yield "what is withheld is not asked for", [*hearing_acts(task), *golden, closing]
    yield from _left_early(task, golden)
    writes = [place for place, step in enumerate(golden) if is_write(step)]
    if writes:
        yield "everything after the end", [*opening, Say("Done."), *golden, closing]
        for place in writes[:-1]:
            yield "stopped early", [*opening, *golden[: place + 1], closing]
    for place in writes:
        step = golden[place]
        assert isinstance(step, Step)
        rest = golden[:place], golden[place + 1 :]
        yield f"without {step.tool}", [*opening, *rest[0], *rest[1], closing]
        for other in _perturbed(setting, task, step, rng):
            yield f"another {step.tool}", [*opening, *rest[0], other, *rest[1], closing]
    yield from _answers(task, opening, golden)
    for extra in _extras(setting, task, rng):
        yield "one act too much", [*opening, *golden, *extra, closing]


def _left_early(task: WorldTask, golden: list[Act]) -> Iterator[tuple[str, list[Act]]]:
    """Say goodbye to a person who has more to ask for."""
    bye, acts = lines_of(task).bye, list[Act]()
    for number in range(len(task.later)):
        *acted, _ = part_acts(task, number)
        yield "left early", [*acts, *acted, Say(lines_of(task).settled + bye)]
        acts += part_acts(task, number)
    if task.later:
        yield "all done, not all heard", [*golden, Say(task.answer + bye)]


def _answers(
    task: WorldTask, opening: list[Act], golden: list[Act]
) -> Iterator[tuple[str, list[Act]]]:
    says, values = lines_of(task), [tell.value for tell in task.goal.told]
    if values:
        told = " and ".join(values)
        yield "nothing told", [*opening, *golden, Say(says.done)]
        yield "told without looking", [*opening, *filter(is_write, golden), Say(task.answer)]
        yield "the answer denied", [*opening, *golden, Say(says.deny_surely.format(told))]
        yield "the answer taken back", [*opening, *golden, Say(task.answer + says.take_back)]
        many = ", ".join(f"{number}.00" for number in range(0, 3_000, 7))
        yield "every value told", [*opening, *golden, Say(says.maybe.format(many, told))]
    rule = "R2" if "R1" in task.goal.refused else "R1"
    wrong = Step(tool=REFUSE, arguments={"rule": rule})
    yield "a refusal too much", [*opening, *golden, wrong, Say(task.answer)]


def _perturbed(setting: Setting, task: WorldTask, step: Step, rng: Random) -> Iterator[Step]:
    if step.tool == REFUSE:
        number = int(step.arguments["rule"][1:])
        other = number % len(setting.spec.clauses) + 1
        yield Step(tool=REFUSE, arguments={"rule": f"R{other}"})
        return
    base = setting.past(task.past).base
    tool = setting.machine.tools[step.tool]
    for one in tool.parameters:
        if one.type.kind == "ref":
            ids = [i for i in base.order[one.type.of] if i != step.arguments[one.name]]
            for other in rng.sample(ids, min(OTHERS, len(ids))):
                yield Step(tool=step.tool, arguments={**step.arguments, one.name: other})
    for arguments in with_other_values(tool, step.arguments):
        yield Step(tool=step.tool, arguments=arguments)


def _extras(setting: Setting, task: WorldTask, rng: Random) -> Iterator[list[Step]]:
    """Yield acts that succeed after the golden chain and change something, or put it back."""
    world = LiveWorld(setting.machine, setting.past(task.past).base)
    caller = Caller(world, setting.words, rng)
    tools = [setting.machine.tools[name] for name in task.tools if name in setting.machine.tools]
    writers = [tool for tool in tools if tool.is_writer]
    rng.shuffle(writers)
    found = 0
    for tool in writers:
        if found >= EXTRA:
            return
        _replay(world, task)
        step = _one_more(caller, tool)
        if step is None:
            continue
        found += 1
        yield [step]
        back = _put_back(world, writers, tool, step)
        if back is not None:
            yield [step, back]


def _replay(world: LiveWorld, task: WorldTask) -> None:
    world.reset()
    for step in task.golden:
        if step.tool != REFUSE and is_write(step):
            world.call(step.tool, step.arguments)


def _one_more(caller: Caller, tool: Tool) -> Step | None:
    before = caller.world.store.difference()
    for _ in range(4):
        arguments = caller.draw(tool, None)
        if arguments is None:
            return None
        try:
            caller.world.call(tool.name, arguments)
        except CallRefused:
            continue
        if caller.world.store.difference() != before:
            return Step(tool=tool.name, arguments=arguments)
    return None


def _put_back(world: LiveWorld, writers: list[Tool], tool: Tool, step: Step) -> Step | None:
    """Return a transition of the same record back to where it was, or the old value."""
    action = tool.action
    if action is None or action.makes_record:
        return None
    key = f"{tool.of}_id"
    for other in writers:
        back = other.action
        if back is None or back.of != action.of or len(other.parameters) != 1 or not back.target:
            continue
        if action.target in back.sources and back.target in action.sources:
            return Step(tool=other.name, arguments={key: step.arguments[key]})
    if action.edits and tool.parameters[-1].name == "value":
        row = world.store.base.rows[tool.of].get(step.arguments[key])
        if row is not None and isinstance(row[action.edits], str):
            return Step(tool=tool.name, arguments={key: step.arguments[key],
                                                   "value": row[action.edits]})  # fmt: skip
    return None


__all__ = ["golden_acts", "wrong_chains"]
