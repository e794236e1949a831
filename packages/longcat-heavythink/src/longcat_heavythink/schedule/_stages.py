"""The stages that a schedule is made of.

A stage takes the candidates of the stage before it and leaves its own:

    Sample      nothing      ->  `width` answers to the question
    Summarise   candidates   ->  `width` answers, each written after seeing candidates
    Vote        candidates   ->  one of the largest group of equal answers
    Best        candidates   ->  the one with the highest score
    Tournament  candidates   ->  the one a model picks, in groups of `size`
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from longcat_heavythink._checks import check_number, check_whole

WEIGHTS = ("count", "mean", "tail", "lowest", "bottom")


def _at_least(stage: Any, **least: int) -> None:
    for name, limit in least.items():
        value = getattr(stage, name)
        if value is not None:
            check_whole(f"{type(stage).__name__.lower()}: {name}", value, limit)


def check_temperature(name: str, value: float | None) -> None:
    """Refuse a temperature that is not finite or is negative."""
    if value is not None:
        check_number(name, value)


@dataclass(frozen=True, slots=True)
class Sample:
    """Ask the question `width` times, side by side."""

    width: int
    quorum: int | None = None
    """Go on once that many good answers are there; the others are cancelled."""
    temperature: float | None = None
    """The config's when `None`."""

    def __post_init__(self) -> None:
        _at_least(self, width=1, quorum=1)
        check_temperature("temperature", self.temperature)
        if self.quorum is not None and self.quorum > self.width:
            raise ValueError(f"quorum={self.quorum} must not exceed width={self.width}")


@dataclass(frozen=True, slots=True)
class Summarise:
    """Write `width` new answers, each after seeing the candidates in an order of its own."""

    width: int = 1
    subset: int | None = None
    """How many candidates each one sees, drawn anew; all when `None`."""
    quorum: int | None = None
    temperature: float | None = None
    """The config's: of the summary where `width` is 1, of the thinkers otherwise."""

    def __post_init__(self) -> None:
        _at_least(self, width=1, subset=1, quorum=1)
        check_temperature("temperature", self.temperature)
        if self.quorum is not None and self.quorum > self.width:
            raise ValueError(f"quorum={self.quorum} must not exceed width={self.width}")


@dataclass(frozen=True, slots=True)
class Vote:
    """Take the answer that most candidates give, each with its weight.

    Ties go to the answer that was drawn first by number, so the outcome does not depend on time.
    """

    weight: str = "count"
    """`count`, or a confidence: `mean`, `tail`, `lowest` group or `bottom` groups (DeepConf)."""
    keep: float = 1.0
    """Share of the most confident candidates that vote."""
    window: int = 2048
    """Tokens of a confidence group."""

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise ValueError(f"weight must be one of {', '.join(WEIGHTS)}, got {self.weight!r}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be in (0, 1], got {self.keep}")
        _at_least(self, window=1)

    @property
    def needs_confidence(self) -> bool:
        """Whether log-probabilities must be asked for."""
        return self.weight != "count" or self.keep < 1


@dataclass(frozen=True, slots=True)
class Best:
    """Take the candidate with the highest score; the scorer is given to the run."""


@dataclass(frozen=True, slots=True)
class Tournament:
    """Let the model pick the best of groups of `size`, round after round, until one is left."""

    size: int = 4

    def __post_init__(self) -> None:
        _at_least(self, size=2)


Stage = Sample | Summarise | Vote | Best | Tournament


@dataclass(frozen=True, slots=True)
class Schedule:
    """Stages in their order. `str(schedule)` is its text; `parse_schedule` reads it back.

    >>> str(Schedule((Sample(8), Summarise())))
    'sample:8>summarise:1'
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages or not isinstance(self.stages[0], Sample):
            raise ValueError(f"a schedule must begin with a sample, got {self}")
        if any(isinstance(stage, Sample) for stage in self.stages[1:]):
            raise ValueError(f"a schedule must hold one sample, at its beginning, got {self}")
        last = self.stages[-1]
        if isinstance(last, Sample | Summarise) and last.width > 1:
            raise ValueError(
                f"a schedule must end with one answer, got {self}: add summarise, vote, best or "
                "tournament"
            )

    def __str__(self) -> str:
        return ">".join(_stage_text(stage) for stage in self.stages)

    @property
    def num_calls(self) -> int:
        """The most calls that a run makes, retries and scores not counted."""
        total, candidates = 0, 0
        for stage in self.stages:
            if isinstance(stage, Sample | Summarise):
                total += stage.width
                candidates = stage.width
            elif isinstance(stage, Tournament):
                while candidates > 1:
                    full, rest = divmod(candidates, stage.size)
                    total += full + (rest > 1)
                    candidates = full + (rest > 0)
            else:
                candidates = 1
        return total


def _stage_text(stage: Stage) -> str:
    arguments: list[str] = []
    for place, field in enumerate(fields(stage)):
        value = getattr(stage, field.name)
        if place == 0:
            arguments.append(str(value))
        elif value != field.default:
            arguments.append(f"{field.name}={value}")
    name = type(stage).__name__.lower()
    return f"{name}:{','.join(arguments)}" if arguments else name
