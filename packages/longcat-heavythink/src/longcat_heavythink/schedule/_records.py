"""What a run is told, and what it leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from longcat_heavythink._normalise import normalise
from longcat_heavythink._prompts import ENGLISH, Prompts
from longcat_heavythink._replies import Call, Message, Reply, Usage

Scorer = Callable[[Sequence[Message], Reply], Awaitable[float]]
"""`await scorer(messages, reply)` returns how good a reply to the messages is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What holds for all stages of a run."""

    temperature: float = 1.0
    summary_temperature: float = 0.6
    max_tokens: int | None = None
    summary_max_tokens: int | None = None
    max_answer_chars: int = 4000
    max_prompt_chars: int | None = None
    packing: str = "fair"
    prompts: Prompts = ENGLISH
    normaliser: Callable[[str], str] = normalise
    summary_tries: int = 2
    seed: int = 0
    stream: str = "none"
    tools: Sequence[Mapping[str, Any]] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Plan:
    """A call that a stage means to make."""

    index: int
    call: Call
    num_bytes: int
    """Of its prompt."""
    members: tuple[int, ...] = ()
    """Indices of the candidates that the prompt shows, in its order."""
    is_final: bool = False
    digest: str = ""
    """Name of the prompt in a journal, once it has one."""
    aside: Usage | None = None
    """Of the budget, while the call is under way."""


@dataclass(frozen=True, slots=True)
class Record:
    """One call of a run, whatever became of it."""

    stage: int
    index: int
    reply: Reply
    usage: Usage
    total_s: float
    members: tuple[int, ...] = ()
    """Indices of the candidates, of the stage before, that its prompt showed, in that order."""


@dataclass(slots=True)
class Outcome:
    """How a run ended, and every call on the way."""

    reply: Reply
    decided_by: str
    """`summary`, `vote`, `best`, `tournament` or `sample`; after a failure `fallback: ` and how."""
    fell_back: str = ""
    """Why, where the schedule could not be followed to its end."""
    records: list[Record] = field(default_factory=list[Record])
    rounds: list[list[str]] = field(default_factory=list[list[str]])
    """Answers that each summary stage was given."""
    warnings: list[str] = field(default_factory=list[str])
    cost: float | None = None
    total_s: float = 0.0

    @property
    def usage(self) -> Usage:
        """Tokens of all calls."""
        return sum((record.usage for record in self.records), Usage())


class HeavyThinkError(RuntimeError):
    """No stage gave a good answer. `records` holds every call with its reason."""

    def __init__(self, message: str, records: Sequence[Record]) -> None:
        super().__init__(message)
        self.records = list(records)


class Book(Protocol):
    """Where calls are looked up before they are made, and written after (a journal)."""

    def find(self, stage: int, plan: Plan) -> Reply | None:
        """Return the recorded reply to a call, `None` where it must be made."""
        ...

    def write(self, stage: int, plan: Plan, record: Record) -> None:
        """Record a call."""
        ...

    def end_stage(self, stage: int) -> None:
        """Record that a stage is over: its failed calls are not made again on resume."""
        ...
