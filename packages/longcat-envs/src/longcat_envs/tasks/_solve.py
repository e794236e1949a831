"""A blind solver: it finds a chain for a goal without seeing the one that made it.

It is given the goal, the person's words, the toolset and the world, and tries at most so many
calls, best first. A call that leaves a trace which the goal does not have can never be made good,
so that whole branch is left. What it finds is another proof that the task can be solved, and, if
its chain is not the golden one, a loophole for a person to read.

    nodes     calls tried, refused ones included
    distance  traces that are still missing, and fields that are not yet as they should be
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from longcat_envs.history import Setting
from longcat_envs.world import CallRefused, LiveWorld

from ._candidates import Candidates
from ._goal import Goal, Outcome, number_forms, outcome
from ._task import Step, WorldTask

MAX_NODES = 10_000
CHUNK = 60
"""Calls tried in one world before the search looks elsewhere."""

_NEW = re.compile(r"new (\w+)(?: [0-9a-f]{12})?")


@dataclass(frozen=True, slots=True)
class Solution:
    """What the solver came to."""

    is_found: bool
    attempts: int
    """Calls tried."""
    steps: tuple[Step, ...] = ()
    """Writes in order, and then the looks that show what is to be told."""
    is_golden: bool = False
    """Whether the same writes are the golden ones, in whatever order."""


@dataclass(slots=True)
class _Place:
    """A world that was reached, and the calls that have not been tried in it."""

    steps: tuple[Step, ...]
    distance: int
    calls: Iterator[tuple[str, dict[str, Any]]] | None = None


def solve(setting: Setting, task: WorldTask, *, max_nodes: int = MAX_NODES) -> Solution:
    """Look for a chain that reaches the goal of a task.

    Refusals are taken from the goal: which rule forbids a wish is not searched for.
    """
    return _Search(setting, task, max_nodes).run()


class _Search:
    def __init__(self, setting: Setting, task: WorldTask, max_nodes: int) -> None:
        self.setting, self.task, self.max_nodes = setting, task, max_nodes
        self.goal: Goal = task.goal
        self.world = LiveWorld(setting.machine, setting.past(task.past).base)
        self.candidates = Candidates(setting, task, self.world)
        self.events = Counter(_NEW.sub(r"new \1", event) for event in self.goal.events)
        self.touched = frozenset(self.goal.touched)
        self.nodes = 0

    def run(self) -> Solution:
        """Search, best first."""
        order = count()
        start = outcome(self.world)
        heap = [(0, 0, next(order), _Place((), self.distance(start)))]
        passed = {_key(start)}
        while heap and self.nodes < self.max_nodes:
            *_, place = heapq.heappop(heap)
            self._replay(place.steps)
            if place.calls is None:
                if place.distance == 0 and (found := self._tell(place.steps)) is not None:
                    return found
                place.calls = self.candidates.calls(*self._missing(outcome(self.world)))
            tried = 0
            for tool, arguments in islice(place.calls, CHUNK):
                tried += 1
                reached = self._try(tool, arguments)
                if reached is None or _key(reached) in passed:
                    continue
                passed.add(_key(reached))
                step = Step(tool=tool, arguments=arguments)
                child = _Place((*place.steps, step), self.distance(reached))
                heapq.heappush(heap, (child.distance, -len(child.steps), next(order), child))
                if self.nodes >= self.max_nodes:
                    break
            if tried == CHUNK:
                heapq.heappush(heap, (place.distance + 1, -len(place.steps), next(order), place))
        return Solution(False, self.nodes)

    def _replay(self, steps: tuple[Step, ...]) -> None:
        self.world.reset()
        for step in steps:
            self.world.call(step.tool, step.arguments)

    def _try(self, tool: str, arguments: dict[str, Any]) -> Outcome | None:
        """Return what a call leads to, and take it back; `None` if it is no way to the goal."""
        self.nodes += 1
        try:
            self.world.call(tool, arguments)
        except CallRefused:
            return None
        reached = outcome(self.world)
        self.world.undo()
        is_allowed = reached.touched <= self.touched and _traces(reached) <= self.events
        return reached if is_allowed else None

    # -- how far it is -----------------------------------------------------------------------

    def distance(self, reached: Outcome) -> int:
        """Count what is missing: events, values, and new records that are not as wanted.

        A value that was changed and is still wrong counts twice, as does a new record that no
        missing event will change: detours are tried last.
        """
        wrong = sum(1 + is_changed for _, is_changed in self._wrong(reached))
        missing = self.events - _traces(reached)
        mendable = {event.split(" ")[3] for event in missing if " new " in event}
        odd = Counter(reached.made) - Counter(self.goal.made)
        cost = sum(n * (1 if label.split(" ")[1] in mendable else 2) for label, n in odd.items())
        return missing.total() + wrong + cost

    def _wrong(self, reached: Outcome) -> Iterator[tuple[str, bool]]:
        """Yield each `class.field` that is not as the goal has it, and whether it was changed."""
        for record in {**reached.changed, **self.goal.changed}:
            is_now, wanted = reached.changed.get(record, {}), self.goal.changed.get(record, {})
            for name in {**is_now, **wanted}:
                if name not in is_now or name not in wanted or is_now[name] != wanted[name]:
                    yield f"{record.partition(':')[0]}.{name}", name in is_now

    def _missing(self, reached: Outcome) -> tuple[set[str], set[str]]:
        """Return the fields that have to be written, and the classes that have to be made."""
        fields, made = {name for name, _ in self._wrong(reached)}, set[str]()
        for event in self.events - _traces(reached):
            kind, of = event.split(" ")[:2]
            if kind == "made":
                made.add(of)
            else:
                fields.add(f"{of}.{'state' if kind == 'state' else 'balance'}")
        for label in Counter(reached.made) - Counter(self.goal.made):
            of = label.split(" ")[1]
            fields |= {f"{of}.{name}" for name in self.setting.spec.classes[of].fields}
        return fields, made

    # -- what is to be told --------------------------------------------------------------------

    def _tell(self, steps: tuple[Step, ...]) -> Solution | None:
        """Leave out what is not needed, and find a look that shows each value to be told."""
        steps = self._needed(steps)
        self._replay(steps)
        looks: list[Step] = []
        for tell in self.goal.told:
            look = self._look(tell.value)
            if look is None:
                return None
            looks.append(look)
        golden = [s for s in self.task.golden if self._is_writer(s.tool)]
        return Solution(True, self.nodes, (*steps, *looks), _alike(steps, golden))

    def _needed(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        place = 0
        while place < len(steps):
            shorter = steps[:place] + steps[place + 1 :]
            if self._reaches(shorter):
                steps = shorter
            else:
                place += 1
        return steps

    def _reaches(self, steps: tuple[Step, ...]) -> bool:
        self.nodes += len(steps)
        try:
            self._replay(steps)
        except CallRefused:
            return False
        return self.distance(outcome(self.world)) == 0

    def _is_writer(self, name: str) -> bool:
        tool = self.setting.machine.tools.get(name)
        return tool is not None and tool.is_writer

    def _look(self, value: str) -> Step | None:
        for name in self.task.tools:
            tool = self.setting.machine.tools.get(name)
            if tool is None or tool.kind != "get":
                continue
            for identifier in self.candidates.records(tool.of):
                self.nodes += 1
                arguments = {f"{tool.of}_id": identifier}
                shown = self.world.call(name, arguments).values()
                if any(value == str(v) or value in number_forms(v) for v in shown):
                    return Step(tool=name, arguments=arguments)
        return None


def _traces(reached: Outcome) -> Counter[str]:
    """Return the events, new records by their class alone: what they hold may yet change."""
    return Counter(_NEW.sub(r"new \1", event) for event in reached.events)


def _key(reached: Outcome) -> tuple[Any, ...]:
    return (repr(sorted((r, sorted(f.items())) for r, f in reached.changed.items())),
            reached.made, reached.events, reached.touched)  # fmt: skip


def _alike(steps: tuple[Step, ...], golden: list[Step]) -> bool:
    """Whether two chains make the same calls; ids of records that they make do not count."""

    def calls(chain: list[Step]) -> Counter[str]:
        return Counter(
            f"{s.tool} {sorted((k, str(v)) for k, v in s.arguments.items() if k[-3:] != '_id')}"
            for s in chain
        )

    return calls(list(steps)) == calls(golden)
