"""What a person wants and how one can tell that it was done.

Everything here is plain data that survives a trip through JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ._database import Row, Tables, difference


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
    these values. `answer`: the last message contains `text`. `untouched`: no other row changed.
    """

    kind: Literal["state", "created", "answer", "untouched"]
    description: str
    table: str = ""
    id: str = ""
    values: dict[str, str] = field(default_factory=dict[str, str])
    text: str = ""


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


CLOSED = "the agent says when it is done"
"""Part of every task: who goes on calling tools after the goal has not finished the job."""


def judge(task: Task, after: Tables, last_message: str | None) -> Reward:
    """Compare the end of an episode with the rubrics of its task.

    `last_message` is what the agent closed the conversation with, `None` if it never did.
    """
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
            met = _mentions(last_message or "", rubric.text)
        else:
            met = set(changed) <= allowed and _only_wanted_columns(task, after)
        parts[rubric.description] = float(met)
    parts[CLOSED] = float(last_message is not None)
    return Reward(float(all(parts.values())), parts)


def _mentions(message: str, text: str) -> bool:
    """Whether `text` stands in the message as a whole word (42 is not mentioned by 1420)."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message, re.IGNORECASE) is not None


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
