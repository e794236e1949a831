"""What wishes have to do with one another.

A call is about the records that it names and those of the person to which they lead: a card's
account, a claim's policy. Two wishes belong together if they are about one record, loosely if
they are about two of a kind (two accounts of mine).
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from longcat_envs.history import Setting
from longcat_envs.world import LiveWorld, Tool

from ._call import Call
from ._chain import Chains, Draw
from ._sense import Record, about, led_to, names_twice
from ._task import Step, WorldTask


class Links:
    """Draws calls that have to do with a chain of calls."""

    def __init__(self, setting: Setting, chains: Chains, rng: Random) -> None:
        self.spec, self.tools = setting.spec, setting.machine.tools
        self.chains, self.rng = chains, rng

    def known(self, chain: Iterable[Call]) -> set[Record]:
        """Return what a chain is about and what it makes."""
        calls = list(chain)
        self.chains.run(calls)
        store = self.chains.world.store
        found = {record for record, (before, _) in store.difference().items() if before is None}
        for call in calls:
            found |= about(self.spec, store, self.tools[call.tool], call.arguments)
        return found

    def drawer(self, chain: Iterable[Call], *, is_loose: bool = False) -> Draw:
        """Return what draws calls about records of a chain, or loosely about such records."""
        known = self.known(chain)
        kinds = {of for of, _ in known if self.spec.classes[of].owner is not None}
        me = self.spec.person

        def draw(tool: Tool) -> Call | None:
            if is_loose and tool.of not in kinds - {me}:
                return None
            call = self._near(tool, known)
            if call is None or is_loose:
                return call
            store = self.chains.world.store
            return call if about(self.spec, store, tool, call.arguments) & known else None

        return draw

    def _near(self, tool: Tool, known: set[Record]) -> Call | None:
        """Draw a call, of records that are known or lead to known ones where there are any."""
        arguments = self.chains.caller.draw(tool, self.chains.person)
        if arguments is None or tool.action is None:
            return None
        store = self.chains.world.store
        for one in tool.parameters:
            if one.type.kind != "ref" or one.type.of == self.spec.person:
                continue
            is_self = one.name == f"{tool.of}_id" and not tool.action.makes_record
            states = tool.action.sources if is_self else ()
            options = self.chains.caller.options(one.type, self.chains.person, states)
            taken = {arguments[name] for name in arguments if name != one.name}
            near = [
                i for i in options if i not in taken
                and not led_to(self.spec, store, (one.type.of, i)).isdisjoint(known)
            ]  # fmt: skip
            if near and (is_self or self.rng.random() < 0.7):
                arguments[one.name] = self.rng.choice(near)
        return None if names_twice(tool, arguments) else Call(tool.name, arguments)

    def is_own(self, call: Call) -> bool:
        """Whether a call changes the person's own record."""
        return self.tools[call.tool].of == self.spec.person


def linked(setting: Setting, task: WorldTask) -> tuple[int, int]:
    """Return how many later wishes are about a record of an earlier one, and how many there are."""
    world = LiveWorld(setting.machine, setting.past(task.past).base)
    tools, earlier, num = setting.machine.tools, set[Record](), 0
    for number, part in enumerate(task.parts):
        steps: list[Step] = [s for s in part if s.tool in tools and tools[s.tool].kind != "search"]
        steps = [s for s in steps if tools[s.tool].is_writer] or steps[-1:] or [*task.forbidden]
        for step in steps:
            if tools[step.tool].is_writer and step not in task.forbidden:
                world.call(step.tool, step.arguments)
        here = set[Record]()
        for step in steps:
            here |= about(setting.spec, world.store, tools[step.tool], step.arguments)
        num += bool(number and here & earlier)
        made = world.store.difference().items()
        earlier |= here | {record for record, (before, _) in made if before is None}
    return num, len(task.later)
