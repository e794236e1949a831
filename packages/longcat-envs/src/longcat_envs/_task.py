"""What a person wants and how one can tell that it was done.

Everything here is plain data that survives a trip through JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ._database import Row, Tables, difference
from ._told import says, told


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a golden chain, and the thought before it."""

    tool: str
    arguments: dict[str, str]
    thought: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """One condition of success.

    `state`: the row `id` of `table` ends with these values. `created`: a new row of `table` holds
    these values. `answer`: the agent tells `text` (`_told.py`). `untouched`: no other row changed.
    """

    kind: Literal["state", "created", "answer", "untouched"]
    description: str
    table: str = ""
    id: str = ""
    values: dict[str, str] = field(default_factory=dict[str, str])
    text: str = ""
    pattern: str = ""
    """For `answer`: a regular expression of every value of the type."""


RUBRIC_KINDS = ("state", "created", "answer", "untouched")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One environment with its one task: the whole of what is needed to act in it and to judge."""

    id: str
    domain: str
    tags: tuple[str, ...]
    """Capabilities it exercises: the kinds of its goals, `compound`, `clarify`."""
    description: str
    """What the person wants, complete."""
    opening: str
    """What the person says first; may leave out `withheld`."""
    withheld: str
    """What the person adds when asked; empty if the opening says everything."""
    profile: dict[str, str]
    tools: tuple[str, ...]
    """Tools present in this environment."""
    tables: Tables
    golden: tuple[Step, ...]
    answer: str
    """The closing message of the golden trajectory."""
    rubrics: tuple[Rubric, ...]

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Task:
        """Read what `to_json` wrote."""
        raw = json.loads(line)
        raw["golden"] = tuple(Step(**step) for step in raw["golden"])
        raw["rubrics"] = tuple(Rubric(**rubric) for rubric in raw["rubrics"])
        raw["tags"], raw["tools"] = tuple(raw["tags"]), tuple(raw["tools"])
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Reward:
    """The judgement of an episode."""

    total: float
    """1 if every rubric is met, else 0."""
    parts: Mapping[str, float]
    """Each rubric's description, 1 or 0."""

    @property
    def share(self) -> float:
        """Share of the rubrics met."""
        return sum(self.parts.values()) / len(self.parts) if self.parts else 0.0


@dataclass(frozen=True, slots=True)
class Invalid:
    """The world failed, not the agent: such an episode has no reward."""

    reason: str


CLOSED = "the agent says when it is done"
"""Part of every task: who goes on calling tools after the goal has not finished the job."""

ASKED = "the agent asks for what it was not told"
"""Part of tasks that withhold something: who guesses right was lucky."""


def judge(
    task: Task,
    after: Tables,
    said: str | None,
    *,
    seen: Collection[str] = (),
    was_asked: bool = True,
) -> Reward:
    """Compare the end of an episode with the rubrics of its task.

    Args:
        task: The task.
        after: The tables at the end.
        said: All that the agent said to the person, `None` if the talk never ended.
        seen: The values that tool results held in this episode: only these can be told.
        was_asked: Whether the agent asked for what the task withholds.

    Raises:
        ValueError: The task has no rubric, or one of an unknown kind.
    """
    check_rubrics(task)
    changed = difference(task.tables, after)
    wanted = {(r.table, r.id) for r in task.rubrics if r.kind == "state"}
    created = _match_created(task, changed)
    allowed = wanted | set(created.values())
    parts: dict[str, float] = {}
    for number, rubric in enumerate(task.rubrics):
        if rubric.kind == "state":
            met = _holds(after[rubric.table].get(rubric.id), rubric.values)
        elif rubric.kind == "created":
            met = number in created
        elif rubric.kind == "answer":
            met = _is_told(task, rubric, said or "", seen)
        else:
            met = set(changed) <= allowed and _only_wanted_columns(task, after)
        parts[rubric.description] = min(parts.get(rubric.description, 1.0), float(met))
    parts[CLOSED] = float(said is not None)
    if task.withheld:
        parts[ASKED] = float(was_asked)
    return Reward(float(all(parts.values())), parts)


def check_rubrics(task: Task) -> None:
    """Raise if the task cannot be judged."""
    if not task.rubrics:
        raise ValueError(f"task {task.id!r} must have rubrics, has none")
    for rubric in task.rubrics:
        if rubric.kind not in RUBRIC_KINDS:
            raise ValueError(
                f"a rubric must be of kind {', '.join(RUBRIC_KINDS)}, got {rubric.kind!r}"
            )


def _is_told(task: Task, rubric: Rubric, said: str, seen: Collection[str]) -> bool:
    pattern = rubric.pattern or re.escape(rubric.text)
    wanted = {r.text for r in task.rubrics if r.kind == "answer" and r.pattern == rubric.pattern}
    return told(said, wanted, pattern, seen)[rubric.text]


def seen_in_time(task: Task, said: Sequence[str], seen: Mapping[str, int]) -> set[str]:
    """Return the values seen, without those that were told only before they were seen.

    Args:
        task: Says which values are to be told.
        said: The agent's messages.
        seen: Each value in a result, with the number of messages said before it came.
    """
    late = {
        rubric.text
        for rubric in task.rubrics
        if rubric.kind == "answer"
        and (first := seen.get(rubric.text, 0))
        and not says("\n".join(said[first:]), rubric.text, rubric.pattern or re.escape(rubric.text))
    }
    return set(seen) - late


def _holds(row: Row | None, values: Mapping[str, str]) -> bool:
    return row is not None and all(row[column] == value for column, value in values.items())


def _match_created(
    task: Task, changed: Mapping[tuple[str, str], Row | None]
) -> dict[int, tuple[str, str]]:
    """Assign each `created` rubric a new row of its own."""
    new = {
        place: row
        for place, row in changed.items()
        if row is not None and place[1] not in task.tables[place[0]]
    }
    matched: dict[int, tuple[str, str]] = {}
    for number, rubric in enumerate(task.rubrics):
        if rubric.kind != "created":
            continue
        for place, row in new.items():
            if place[0] == rubric.table and _holds(row, rubric.values):
                matched[number] = place
                del new[place]
                break
    return matched


def _only_wanted_columns(task: Task, after: Tables) -> bool:
    """In a row that should change, the columns no rubric names must keep their values."""
    for place in {(r.table, r.id) for r in task.rubrics if r.kind == "state"}:
        named = {
            column
            for r in task.rubrics
            if r.kind == "state" and (r.table, r.id) == place
            for column in r.values
        }
        old, new = task.tables[place[0]][place[1]], after[place[0]].get(place[1])
        if new is None or any(old[c] != new[c] for c in old if c not in named):
            return False
    return True
