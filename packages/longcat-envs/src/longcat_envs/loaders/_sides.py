"""Sets whose person has tools of their own: a session of two sides, judged on both.

    agent ── calls ──► its side ─┐ after each call        ┌─ assertions on either side
      │ asks                     ├─ the two are brought ──┤  golden calls that must have been made
      ▼                          │  in line (`sync`)      └─ the records as after the golden calls
    person ─ acts ───► its side ─┘

A kit brings the sides with their tools; which of the three verdicts count is each task's own
`reward_basis`. The words of golden calls of the person are `_hands.request`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from longcat_envs._database import ToolError
from longcat_envs.tasks import Step, Talker

from ._hands import Hands, Way
from ._overlay import plain
from ._tau2_records import Finders, follow, found_by, scenario
from ._types import ForeignTask, Schema, leaves

JUDGED = ("ENV_ASSERTION", "ACTION", "DB")
"""Parts of a `reward_basis` that are judged here."""
MAX_GOALS = 64
ANY_ARGUMENTS = "transfer_to_human_agents"
"""A golden call that counts whatever it says."""


class Sides(Protocol):
    """One live world: two objects whose methods are tools, and what keeps them in line."""

    agent: Any
    person: Any

    def sync(self) -> None:
        """Bring the two in line."""
        ...

    def records(self) -> dict[str, dict[str, Any]]:
        """Return all records of both sides, by table and key, as they are now."""
        ...


class SidesSet:
    """The tasks of one domain of two sides.

    Args:
        name: Name of the set.
        version: Where the data comes from.
        tasks: The benchmark's tasks, as its file holds them.
        policy: What the agent reads.
        schemas: The agent's tools.
        acts: The person's tools.
        make: Makes a world; a task's initial data is handed to it.
        ways: Ways of asking the person for an act in plain words.
        finders: Fields by which a record is found, by table.
        library: Texts that a tool of the agent looks things up in.
    """

    def __init__(
        self, name: str, version: str, *, tasks: Sequence[dict[str, Any]], policy: str,
        schemas: Sequence[Schema], acts: Sequence[Schema],
        make: Callable[[dict[str, Any]], Sides], ways: Sequence[Way] = (),
        finders: Finders | None = None, library: str = "",
    ) -> None:  # fmt: skip
        self.name, self.version = name, version
        self._make, self._ways, self.library = make, tuple(ways), library.casefold()
        self._finders = finders or {}
        self._names = {one["function"]["name"] for one in schemas}
        self._acts = {one["function"]["name"] for one in acts}
        self.tasks: Sequence[ForeignTask] = [
            self._task(raw, policy, tuple(schemas), tuple(acts)) for raw in tasks
        ]
        self._by_id = {task.id: task for task in self.tasks}
        self.goal = functools.lru_cache(maxsize=MAX_GOALS)(self._goal)
        self.start = functools.lru_cache(maxsize=MAX_GOALS)(self._start)

    def _task(
        self, raw: dict[str, Any], policy: str, schemas: tuple[Schema, ...],
        acts: tuple[Schema, ...],
    ) -> ForeignTask:  # fmt: skip
        golden, asked = runs_of(actions_of(raw))
        return ForeignTask(
            id=str(raw["id"]), domain=self.name, system=policy, turns=(scenario(raw),),
            tools=schemas, acts=acts, golden=golden, asked=asked,
            unjudged=tuple(one for one in basis_of(raw) if one not in JUDGED), raw=raw,
        )  # fmt: skip

    def begin(self, task: ForeignTask) -> SidesSession:
        """Return a fresh world for a task."""
        return SidesSession(self, task)

    def new_sides(self, task: ForeignTask) -> Sides:
        """Return fresh sides in the task's initial state."""
        initial: dict[str, Any] = task.raw.get("initial_state") or {}
        sides = self._make(initial.get("initialization_data") or {})
        for action in initial.get("initialization_actions") or ():
            side = sides.person if action["env_type"] == "user" else sides.agent
            getattr(side, action["func_name"])(**copy.deepcopy(action["arguments"]))
            sides.sync()
        return sides

    def is_offered(self, name: str, *, by_person: bool) -> bool:
        """Whether a side has a tool."""
        return name in (self._acts if by_person else self._names)

    def _start(self, task_id: str) -> dict[str, str]:
        """Return all records of a task as they are at first."""
        return frozen(self.new_sides(self._by_id[task_id]).records())

    def _goal(self, task_id: str) -> dict[str, Any]:
        """Return what differs from the start after the golden calls of both sides."""
        session = self.begin(self._by_id[task_id])
        for turn, steps in enumerate(session.task.golden):
            for step in steps:
                with contextlib.suppress(ToolError):
                    session.call(step.tool, step.arguments)
            for step in session.task.asked[turn]:
                session.act(step.tool, step.arguments)
        return session.state()

    def person(self, task: ForeignTask) -> Talker:
        """Return who has said the whole scenario at once, and does what the agent asks for."""
        return Hands(task.turns[0], self._ways)

    def known(self, task: ForeignTask, texts: Sequence[str]) -> set[str]:
        """Return what the records hold that a text leads to."""
        return {str(leaf).casefold() for one in self.records(task, texts) for leaf in leaves(one)}

    def records(self, task: ForeignTask, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Follow keys of records from the texts, and from record to record."""
        tables = self.new_sides(task).records()
        return follow(tables, texts, found_by(tables, self._finders), backwards=True)

    def breaches(self, task: ForeignTask) -> list[str]:
        """Nothing: no rule of these policies is checked."""
        return []

    def intact(self) -> bool:
        """Whether nothing shared has changed; each world is made anew."""
        return True


class SidesSession:
    """One live world of two sides."""

    def __init__(self, source: SidesSet, task: ForeignTask) -> None:
        self._source, self.task = source, task
        self.sides = source.new_sides(task)
        self._start = source.start(task.id)
        self._made: list[tuple[bool, str, dict[str, Any]]] = []

    def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Run one call of the agent; a refusal of the tool is raised."""
        text = self._run(self.sides.agent, name, arguments, by_person=False)
        return text, text.startswith("Error")

    def act(self, name: str, arguments: dict[str, Any]) -> str:
        """Run one call of the person; what is wrong with it is an answer."""
        try:
            return self._run(self.sides.person, name, arguments, by_person=True)
        except ToolError as error:
            return f"Error: {error}"

    def _run(self, side: Any, name: str, arguments: dict[str, Any], *, by_person: bool) -> str:
        if not self._source.is_offered(name, by_person=by_person):
            raise ToolError(f"there is no tool {name[:80]!r}")
        # The benchmark looks for what was called, whatever came of it.
        self._made.append((by_person, name, copy.deepcopy(arguments)))
        try:
            result = getattr(side, name)(**copy.deepcopy(arguments))
        except Exception as error:  # the benchmark answers every exception of a tool
            raise ToolError(str(error) or type(error).__name__) from None
        self.sides.sync()
        return written(result)

    def end_turn(self) -> None:
        """Nothing is judged before the end."""

    def state(self) -> dict[str, Any]:
        """Return what differs from the start, by table and key; `None` for what is gone."""
        now = frozen(self.sides.records())
        return {
            place: json.loads(now[place]) if place in now else None
            for place in sorted(now.keys() | self._start.keys())
            if now.get(place) != self._start.get(place)
        }

    def parts(self, said: str) -> dict[str, float]:
        """Judge by what the task's reward is based on."""
        raw, basis, found = self.task.raw, basis_of(self.task.raw), dict[str, float]()
        if "ENV_ASSERTION" in basis:
            for one in _criteria(raw).get("env_assertions") or ():
                side = self.sides.person if one["env_type"] == "user" else self.sides.agent
                holds = getattr(side, one["func_name"])(**one["arguments"]) == one["assert_value"]
                found[f"{one['func_name']} {json.dumps(one['arguments'])}"] = float(holds)
        if "ACTION" in basis:
            for number, one in enumerate(actions_of(raw), start=1):
                found[f"call {number}: {one['name']}"] = float(self._was_made(one))
        if "DB" in basis:
            same = self.state() == self._source.goal(self.task.id)
            found["the records are as after the golden calls"] = float(same)
        return found

    def _was_made(self, action: dict[str, Any]) -> bool:
        compared: list[str] | None = action.get("compare_args")
        for by_person, name, arguments in self._made:
            if (by_person, name) != (is_persons(action), action["name"]):
                continue
            wanted: dict[str, Any] = action["arguments"]
            if compared is not None:
                arguments = {key: arguments.get(key) for key in compared}
                wanted = {key: wanted.get(key) for key in compared}
            if name == ANY_ARGUMENTS or is_same(arguments, wanted):
                return True
        return False


def _criteria(raw: dict[str, Any]) -> dict[str, Any]:
    return raw.get("evaluation_criteria") or {}


def actions_of(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the golden calls of a task, as its file holds them."""
    return list(_criteria(raw).get("actions") or ())


def basis_of(raw: dict[str, Any]) -> list[str]:
    """Return what a task's reward is based on."""
    return list(_criteria(raw).get("reward_basis") or ("DB",))


def is_persons(action: dict[str, Any]) -> bool:
    """Whether a golden call is the person's."""
    return action.get("requestor") == "user"


def runs_of(
    actions: Sequence[dict[str, Any]],
) -> tuple[tuple[tuple[Step, ...], ...], tuple[tuple[Step, ...], ...]]:
    """Cut golden calls into turns: calls of the agent, then calls that it asks the person for."""
    turns: list[tuple[list[Step], list[Step]]] = [([], [])]
    for action in actions:
        if turns[-1][1] and not is_persons(action):
            turns.append(([], []))
        step = Step(tool=action["name"], arguments=dict(action["arguments"]))
        turns[-1][is_persons(action)].append(step)
    return (tuple(tuple(calls) for calls, _ in turns), tuple(tuple(acts) for _, acts in turns))


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal; lists in any order."""
    if isinstance(one, dict) and isinstance(other, dict):
        first, second = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return first.keys() == second.keys() and all(is_same(first[k], second[k]) for k in first)
    if isinstance(one, list) and isinstance(other, list):
        rest = list(cast("list[Any]", other))
        for value in cast("list[Any]", one):
            place = next((n for n, left in enumerate(rest) if is_same(value, left)), None)
            if place is None:
                return False
            del rest[place]
        return not rest
    return one == other


def written(result: Any) -> str:
    """Write what a tool returns."""
    if isinstance(result, str):
        return result
    return json.dumps(_plain(result), default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("Sequence[Any]", value)]
    return plain(value)


def frozen(records: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return records as texts, by `table/key`."""
    return {
        f"{name}/{key}": json.dumps(_plain(record), sort_keys=True, default=str)
        for name, table in records.items() for key, record in table.items()
    }  # fmt: skip
