"""Turns of users that a model has written ahead of the episodes, kept where they are sound.

A model is asked once for each task and kind; from then on its words are data, so that a draw stays
a pure function of its name. Words that lose a literal, or that a judge objects to, are not kept:
the sentences of the kind itself take their place.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ._kind import UserKind, compact, parse
from ._task import NoiseTask
from ._words import fold, split
from .users import USERS

Write = Callable[[str, str], "str | Awaitable[str]"]
"""Takes a kind's name and what the user wants to say; returns how such a user says it."""
Judge = Callable[[NoiseTask, str], Iterable[str]]
"""Takes a task and all that its user will have said; returns what is wrong with that."""


@dataclass(frozen=True, slots=True)
class Written:
    """What users say instead, by kind and by what they mean.

    Example:
        >>> written = Written({("ambiguity", "Cancel B17."): "Something has come up."})
        >>> Written.read(written.to_jsonl().splitlines()) == written
        True
    """

    turns: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def find(self, kind: str, text: str) -> str | None:
        """Return what was written for a turn, if anything was."""
        return self.turns.get((kind, text))

    def to_jsonl(self) -> str:
        """Return a line of JSON for each turn."""
        lines = ({"kind": k, "text": t, "written": w} for (k, t), w in self.turns.items())
        return "".join(f"{compact(line)}\n" for line in lines)

    @classmethod
    def read(cls, lines: Iterable[str]) -> Written:
        """Read what `to_jsonl` wrote.

        Raises:
            ValueError: A line is not of that form.
        """
        turns: dict[tuple[str, str], str] = {}
        for line in lines:
            value: Any = parse(line)
            fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
            kind, text, written = (fields.get(name) for name in ("kind", "text", "written"))
            if kind not in USERS or not isinstance(text, str) or not isinstance(written, str):
                raise ValueError(
                    f"a written turn must have a kind, a text and what was written, got {line!r}"
                )
            turns[kind, text] = written
        return cls(turns)


async def write_turns(
    tasks: Sequence[NoiseTask], write: Write, *, kinds: Sequence[str] = ("ambiguity",),
    judge: Judge | None = None,
) -> tuple[Written, list[str]]:  # fmt: skip
    """Let a model write the openings of tasks; return what is sound, and why the rest is not.

    Args:
        tasks: Whose openings are written.
        write: Asks the model. What it raises is raised.
        kinds: Kinds of user noise.
        judge: Says what is wrong with words beyond lost literals, such as `word_faults` of
            longcat-envs on a task with these words for an opening.

    Raises:
        ValueError: There is no such kind.
    """
    for kind in kinds:
        if kind not in USERS:
            raise ValueError(f"a kind must be among {', '.join(USERS)}, got {kind!r}")
    turns: dict[tuple[str, str], str] = {}
    rejected: list[str] = []
    for task in tasks:
        for kind in kinds if task.opening.strip() else ():
            answer = write(kind, task.opening)
            words = await answer if inspect.isawaitable(answer) else answer
            faults = _faults(task, USERS[kind], words, judge)
            if faults:
                rejected.append(f"{task.id}, {kind}: {faults[0]}")
            else:
                turns[kind, task.opening] = words
    return Written(turns), rejected


def _faults(task: NoiseTask, kind: UserKind, words: Any, judge: Judge | None) -> list[str]:
    if not isinstance(words, str) or not words.strip():
        return [f"a turn must be text, got {words!r}"]
    if words == task.opening:
        return ["nothing is changed"]
    heard = f"{words} {task.opening}" if kind.is_deferring else words  # what comes a turn later
    folded = fold(heard)
    lost = [one for one in split(task.opening, task.protected).literals if fold(one) not in folded]
    if lost:
        return [f"{lost[0]!r} is lost in {words!r}"]
    return list(judge(task, heard)) if judge is not None else []
