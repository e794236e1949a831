"""The environment of one task in a world with a past; the protocol of `longcat_envs.Environment`.

The life of an episode, and whose fault what is, lies in `longcat_envs._frame`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from typing import Any, cast

from longcat_envs._database import ToolError
from longcat_envs._frame import Frame
from longcat_envs._person import Person
from longcat_envs._protocol import Observation, Talker, ToolResult, compact
from longcat_envs._task import Reward
from longcat_envs.history import Setting
from longcat_envs.world import LiveWorld

from ._goal import Outcome, judge, number_forms, outcome, seen_in_time
from ._language import language_of
from ._task import WorldTask

REFUSE = "refuse_request"


def refuse_schema(setting: Setting) -> dict[str, Any]:
    """Return the tool by which a wish is refused: an act, with the rule that forbids it."""
    rules = [f"R{number}" for number, _ in enumerate(setting.spec.clauses, start=1)]
    return {
        "type": "function",
        "function": {
            "name": REFUSE,
            "description": "Refuse what the person asks because a rule forbids it; once for each "
            "wish that is refused. Nothing else is done about that wish.",
            "parameters": {
                "type": "object",
                "properties": {"rule": {"type": "string", "description": "Number of the rule.",
                                        "enum": rules}},
                "required": ["rule"], "additionalProperties": False,
            },
        },
    }  # fmt: skip


def system_prompt(setting: Setting, task: WorldTask) -> str:
    """Return who the agent is, the day, and the rules that its tools follow."""
    machine, clauses = setting.machine, setting.spec.clauses
    present = [machine.tools[name] for name in task.tools if name in machine.tools]
    reasons = {g.reason for t in present if t.action for g in t.action.guards}
    written = {w for t in present for w in t.writes}
    for rule in setting.spec.rules:
        if any(f"{r.of}.{r.name}" in written for r in rule.bad.reads):
            reasons.add(rule.reason)
    rules = [f"R{n} {reason}" for n, reason in enumerate(clauses, start=1) if reason in reasons]
    today = date.fromordinal(setting.past(task.past).base.today)
    you = setting.words.you or f"You work at {setting.words.title}."
    return (
        f"{you} Today is {today.isoformat()}, a {today:%A}. People tell you who they are. Records "
        "that have ended are not meant unless they are named as such. Before the first change, say "
        "what you will do and wait for an answer. Do only what is asked; if a rule forbids it, "
        f"refuse it with {REFUSE} and the number of the rule. At the end say what was done.\n"
        "Rules: " + "; ".join(rules) + "." + language_of(setting.words).note
    )


def brief_prompt(setting: Setting, task: WorldTask) -> str:
    """Return who the agent is and the day alone: for small models, which learn the rules."""
    today = date.fromordinal(setting.past(task.past).base.today)
    you = setting.words.you or f"You work at {setting.words.title}."
    return f"{you} Today is {today.isoformat()}.{language_of(setting.words).note}"


def scripted(task: WorldTask) -> Talker:
    """Return the person who follows rules."""
    return Person(
        task.opening, task.withheld, topics=task.topics, change=task.change,
        language=task.language, later=task.wishes[1:], open_wish=task.open_wish,
    )  # fmt: skip


class WorldEnvironment(Frame):
    """One task, one world, one person.

    Args:
        setting: The task's domain.
        task: The task.
        person: Who speaks for the person; by default one who follows rules.
        prompt: Writes the system message; by default with the rules, `brief_prompt` without.
    """

    def __init__(
        self, setting: Setting, task: WorldTask, person: Callable[[WorldTask], Talker] = scripted,
        *, prompt: Callable[[Setting, WorldTask], str] = system_prompt,
    ) -> None:  # fmt: skip
        if task.domain != setting.spec.name:
            raise ValueError(
                f"task {task.id!r} must be of domain {setting.spec.name!r}, is of {task.domain!r}"
            )
        if task.language != setting.words.language:
            raise ValueError(f"task {task.id!r} must be in {setting.words.language!r} as its world "
                             f"is, is in {task.language!r}")  # fmt: skip
        if task.id_digits != setting.id_digits:
            raise ValueError(f"task {task.id!r} must have ids of {setting.id_digits} digits as its "
                             f"world has, its own have {task.id_digits}")  # fmt: skip
        unknown = set(task.tools) - set(setting.machine.tools) - {REFUSE}
        if unknown:
            raise ValueError(f"task {task.id!r} has tools that do not exist: {sorted(unknown)}")
        self.setting, self.task, self._make_person = setting, task, person
        self._prompt = prompt
        self._world: LiveWorld | None = None
        super().__init__(person_waits=person is not scripted)

    def _wipe(self) -> None:
        super()._wipe()
        self._person = self._make_person(self.task)
        self._heard = [self.task.opening]
        self._since = 0
        self._seen: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._refused: list[str] = []

    async def reset(self) -> Observation:
        """Begin the episode anew; return the rules, the opening and the tools."""
        self.start()
        return Observation(
            messages=[
                {"role": "system", "content": self._prompt(self.setting, self.task)},
                {"role": "user", "content": self.task.opening},
            ],
            tools=self.tools,
        )

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Schemas of the task's tools."""
        schemas = self.setting.machine.schemas
        return [
            refuse_schema(self.setting) if name == REFUSE else schemas[name]
            for name in self.task.tools
        ]

    def start(self) -> None:
        """Begin the episode anew."""
        if self._world is None:
            base = self.setting.past(self.task.past).base
            if self.task.person not in base.rows[self.setting.spec.person]:
                raise ValueError(f"task {self.task.id!r} must be of a person of its world, "
                                 f"is of {self.task.person!r}")  # fmt: skip
            self._world = LiveWorld(self.setting.machine, base)
        else:
            self._world.reset()
        self._wipe()

    @property
    def world(self) -> LiveWorld:
        """The world of the episode under way."""
        assert self._world is not None, "reset() comes first"
        return self._world

    def _has_world(self) -> bool:
        return self._world is not None

    def _offered(self) -> Collection[str]:
        return self.task.tools

    def _run(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        if name == REFUSE:
            result: Any = self._refuse(arguments)
        else:
            result = self.world.call(name, arguments)
        own = {"page"}  # the agent's own argument, given back: nothing that it has found
        for value in _values({key: value for key, value in result.items() if key not in own}):
            self._seen.setdefault(str(value), len(self._said))
            for form in number_forms(value):
                self._numbers.setdefault(form, len(self._said))
        return ToolResult(compact(result))

    def _refuse(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        rule = arguments.get("rule")
        clauses = self.setting.spec.clauses
        known = {f"R{number}": words for number, words in enumerate(clauses, start=1)}
        if set(arguments) != {"rule"} or not isinstance(rule, str) or rule not in known:
            raise ToolError("rule must be the number of a rule, such as R1")
        self._refused.append(rule)
        return {"done": True, "refused": known[rule]}

    def _answer(self, text: str) -> str | None:
        before = self._num_unsaid
        answer = self._person.answer(text)
        if answer is not None:
            self._heard.append(answer)
        if self._num_unsaid != before:
            self._since = len(self._said)
        return answer

    @property
    def _num_unsaid(self) -> int:
        """Wishes that the person has not come to; a model that plays them keeps no count."""
        return self._person.num_unsaid if isinstance(self._person, Person) else 0

    def outcome(self) -> Outcome:
        """Return what the episode has come to so far."""
        goal, heard, since = self.task.goal, "\n".join(self._heard), self._since
        # What is to be told is asked for with the last wish: nothing before was an answer to it.
        said = ["" for _ in self._said[:since]] + self._said[since:]
        return outcome(
            self.world, self._refused,
            said="\n".join(said) if self._is_over else None,
            seen=seen_in_time(goal, said, heard, self._seen),
            seen_numbers=seen_in_time(goal, said, heard, self._numbers),
            heard=heard, was_asked=self._person.was_asked,
            num_unsaid=self._num_unsaid if self.task.later else None,
        )  # fmt: skip

    def _judge(self) -> Reward:
        parts = judge(self.task.goal, self.outcome(), withholds=bool(self.task.withheld))
        return Reward(float(all(parts.values())), parts)

    async def close(self) -> None:
        """Free the world; `reset` builds it anew."""
        self._world = None


def _values(result: Any) -> Iterator[Any]:
    if isinstance(result, dict):
        for value in cast("dict[str, Any]", result).values():
            yield from _values(value)
    elif isinstance(result, list):
        for value in cast("list[Any]", result):
            yield from _values(value)
    elif result is not None and not isinstance(result, bool):
        yield result
