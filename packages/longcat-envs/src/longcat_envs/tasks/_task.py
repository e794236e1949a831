"""A task of a world with a past: plain data that survives a trip through JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from longcat_envs.world import ID_DIGITS

from ._goal import Goal, Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a golden chain."""

    tool: str
    arguments: dict[str, Any]
    thought: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A wish that the person brings up when the earlier ones are settled."""

    text: str
    start: int
    """Golden steps before the first one that is for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldTask:
    """What a person wants, and how one can tell that it was done."""

    id: str
    domain: str
    past: int
    """Seed of the history that the world starts from."""
    id_digits: int = ID_DIGITS
    """Digits of the ids of that history's records."""
    difficulty: str
    language: str = "en"
    """The language in which the person speaks."""
    tags: tuple[str, ...]
    opening: str
    """What the person says first: who they are, and the first wish."""
    later: tuple[Later, ...] = ()
    """Further wishes, in the order in which they are brought up."""
    open_wish: int = 0
    """Number of the wish, the opening being 0, of which something is withheld or changed."""
    withheld: str = ""
    topics: tuple[str, ...] = ()
    """Words by which one asks for what is withheld."""
    change: str = ""
    """A change of mind, said when the agent asks whether to go on."""
    mistaken: str = ""
    """What is said first in the place of what `change` says."""
    person: str
    """Id of the person's own record."""
    tools: tuple[str, ...]
    golden: tuple[Step, ...]
    answer: str
    goal: Goal
    forbidden: tuple[Step, ...] = ()
    """Calls for which the person asks and which a rule forbids."""
    profile: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def writes(self) -> tuple[Step, ...]:
        """The golden steps that change something or refuse."""
        return tuple(s for s in self.golden if not s.tool.startswith(("get_", "search_")))

    @property
    def wishes(self) -> tuple[str, ...]:
        """What the person says of their own accord, one message after the other."""
        return (self.opening, *(one.text for one in self.later))

    @property
    def heard(self) -> str:
        """All that the person may say."""
        return " ".join((*self.wishes, self.withheld, self.change))

    @property
    def parts(self) -> tuple[tuple[Step, ...], ...]:
        """The golden steps, those for each of `wishes` apart."""
        starts = (0, *(one.start for one in self.later))
        return tuple(self.golden[a:b] for a, b in zip(starts, (*starts[1:], None), strict=True))

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> WorldTask:
        """Read what `to_json` wrote."""
        raw = json.loads(line)
        goal = raw["goal"]
        goal["told"] = tuple(Tell(**tell) for tell in goal["told"])
        for name in ("made", "events", "touched", "refused"):
            goal[name] = tuple(goal[name])
        raw["goal"] = Goal(**goal)
        raw["later"] = tuple(Later(**one) for one in raw.get("later", ()))
        for name in ("golden", "forbidden"):
            raw[name] = tuple(Step(**step) for step in raw[name])
        for name in ("tags", "topics", "tools"):
            raw[name] = tuple(raw[name])
        return cls(**raw)
