"""A task's chains in a perfect world: the turns, what reads answer, what checks show."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ._contract import Book, Call
from ._draw import canonical
from ._kind import compact
from ._task import NoiseTask, Step
from ._words import fold
from .tools import misleading, padding
from .tools.renamed import undo

Name = tuple[str, str]
Path = tuple[str | int, ...]
Source = tuple[Name, Path]
MISSING = object()


@dataclass(frozen=True, slots=True)
class Check:
    """A read by which a write is seen."""

    call: Call
    before: Any
    """What it shows before the write."""


@dataclass(slots=True)
class Truth:
    """The perfect world's answers along all chains."""

    turns: int = 0
    """Of the first chain."""
    answers: dict[Name, Any] = field(default_factory=dict[Name, Any])
    checks: dict[Name, Check] = field(default_factory=dict[Name, Check])
    counts: list[dict[Name, int]] = field(default_factory=list[dict[Name, int]])
    """How often each write happens, chain by chain."""
    sources: dict[Name, dict[str, list[Source]]] = field(
        default_factory=dict[Name, dict[str, list[Source]]]
    )
    """Arguments that an agent can only know from an earlier answer, and where they stand there,
    chain by chain."""

    def arguments(self, call: Call, seen: Mapping[Name, Any]) -> dict[str, Any]:
        """Return a call's arguments as an agent knows them that trusts what it saw."""
        known = dict(call.arguments)
        for argument, sources in self.sources.get(_name(call), {}).items():
            values = (found_at(seen[name], path) for name, path in sources if name in seen)
            value = next((value for value in values if value is not MISSING), MISSING)
            if value is not MISSING:
                known[argument] = value if type(value) is type(known[argument]) else str(value)
        return known


def facts(content: str) -> Any:
    """Return what an answer says, without what stands around it and under the names of old."""
    start = min((at for at in map(content.find, "{[") if at >= 0), default=-1)
    while 0 <= start < len(content):
        try:
            return undo(json.JSONDecoder().raw_decode(content, start)[0])
        except (ValueError, RecursionError):
            later = [at for at in (content.find(c, start + 1) for c in "{[") if at >= 0]
            start = min(later, default=-1)
    return _bare(content.strip())


def _bare(text: str) -> str:
    """Return an answer in plain words without a note before it, a hint behind it, a second copy."""
    for note in padding.NOTES:
        text = text.removeprefix(f"{note} ")
    for hint in misleading.HINTS:
        text = text.removesuffix(f"\n{hint}")
    half = len(text) // 2
    return text[:half] if text == f"{text[:half]}\n{text[:half]}" else text


def found_at(value: Any, path: Path) -> Any:
    """Return what stands at a path; `MISSING` if nothing does."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return value


def total(score: Any) -> float:
    """Return a reward as a number.

    Raises:
        ValueError: The world says that it failed itself.
    """
    fields: Mapping[str, Any] = (
        cast("Mapping[str, Any]", score) if isinstance(score, Mapping) else {}
    )
    reward: Any = getattr(cast("Any", score), "total", fields.get("total"))
    reward = cast("Any", score) if reward is None else reward
    if isinstance(reward, int | float):
        return float(reward)
    reason: Any = getattr(cast("Any", score), "reason", reward)
    raise ValueError(f"the world failed: {reason}")


async def look(task: NoiseTask, book: Book, world: Callable[[], Any]) -> Truth:
    """Run every chain in a perfect world.

    Raises:
        ValueError: A chain does not reach the goal there; the message says how.
    """
    truth = Truth()
    for place, chain in enumerate(task.chains):
        turns = await _run(task, chain, book, world(), truth)
        truth.turns = turns if place == 0 else truth.turns
        await _look_around(chain, book, world(), truth)
    for chain in task.chains:
        _trace(task, chain, truth)
    return truth


async def _run(
    task: NoiseTask, chain: tuple[Step, ...], book: Book, world: Any, truth: Truth
) -> int:
    """Run a chain and judge it."""
    await awaited(world.reset())
    counts: dict[Name, int] = {}
    for step in chain:
        if step.call is None:
            await awaited(world.reply({"role": "assistant", "content": step.say}))
            continue
        content = await _answer(world, step.call)
        truth.answers.setdefault(_name(step.call), facts(content))
        if book[step.call.tool].role != "reader":
            counts[_name(step.call)] = counts.get(_name(step.call), 0) + 1
    reached = total(await awaited(world.score()))
    await awaited(world.close())
    if reached < 1:
        raise ValueError(f"the golden chain does not reach the goal: reward {reached:g}")
    truth.counts.append(counts)
    return len(chain)


async def _look_around(chain: tuple[Step, ...], book: Book, world: Any, truth: Truth) -> None:
    """Find, for each write, a read whose answer it changes."""
    await awaited(world.reset())
    calls = [step.call for step in chain if step.call is not None]
    for step in chain:
        if step.call is None:
            await awaited(world.reply({"role": "assistant", "content": step.say}))
            continue
        call = step.call
        check = book.check(call, calls) if book[call.tool].role == "writer" else None
        before = await _peek(world, check)
        await _answer(world, call)
        after = await _peek(world, check)
        if check is not None and MISSING not in (before, after) and before != after:
            truth.checks[_name(call)] = Check(check, before)
    await awaited(world.close())


async def _peek(world: Any, call: Call | None) -> Any:
    """Read, if there is something to read; what is refused tells nothing."""
    if call is None:
        return MISSING
    result = await awaited(world.call(_message(call)))
    return MISSING if result.is_error else facts(str(result.content))


async def _answer(world: Any, call: Call) -> str:
    result = await awaited(world.call(_message(call)))
    if result.is_error:
        raise ValueError(f"{call.tool} refuses the golden call: {str(result.content)[:200]}")
    return result.content if isinstance(result.content, str) else compact(result.content)


def _trace(task: NoiseTask, chain: tuple[Step, ...], truth: Truth) -> None:
    """Find where arguments come from that the user does not say."""
    known = fold(task.opening)
    calls = [step.call for step in chain if step.call is not None]
    for index, call in enumerate(calls):
        for argument, value in call.arguments.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                continue
            if len(str(value)) < 2 or fold(str(value)) in known:
                continue
            for earlier in calls[:index]:
                path = _find(truth.answers.get(_name(earlier)), value)
                if path is not None:
                    found = truth.sources.setdefault(_name(call), {})
                    found.setdefault(argument, []).append((_name(earlier), path))
                    break


def _find(value: Any, wanted: Any) -> Path | None:
    if isinstance(value, dict):
        items: Any = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        items = enumerate(cast("list[Any]", value))
    else:
        is_it = not isinstance(value, bool) and value is not None and str(value) == str(wanted)
        return () if is_it else None
    for key, item in items:
        path = _find(item, wanted)
        if path is not None:
            return (key, *path)
    return None


def _name(call: Call) -> Name:
    return (call.tool, canonical(call.arguments))


def _message(call: Call) -> dict[str, Any]:
    function = {"name": call.tool, "arguments": compact(call.arguments)}
    return {"id": "call_0", "type": "function", "function": function}


async def awaited(value: Any) -> Any:
    """Wait for a value, if it is to be waited for."""
    return await value if inspect.isawaitable(value) else value
