"""A task as plain JSON: what is wanted, the golden chains, the limits, the literals to be spared.

    {"id": "t1", "opening": "Cancel B17.", "answer": "Done.", "max_turns": 8,
     "golden": [{"tool": "get_booking", "arguments": {"booking_id": "B17"}, "result": {...}},
                {"say": "Shall I cancel it?"},
                {"tool": "cancel", "arguments": {"booking_id": "B17"}}]}

`chain` is another name of `golden`; `chains` lists several that lead to the goal. A step without a
`tool` says something. Other keys are kept in `raw` and otherwise ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ._contract import Book, Call, Contract, read_arguments


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a golden chain: a call, or something that is said."""

    call: Call | None = None
    say: str = ""
    result: Any = None
    """What the call is known to answer; for tasks without a world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseTask:
    """What must be known of a task to certify its noise.

    Example:
        >>> chain = [{"tool": "find", "arguments": {"n": "Ada"}}]
        >>> task = NoiseTask.read({"id": "t", "golden": chain})
        >>> task.chains[0][0].call.tool, task.protected
        ('find', ('Ada',))
    """

    id: str
    chains: tuple[tuple[Step, ...], ...]
    opening: str = ""
    protected: tuple[str, ...] = ()
    max_turns: int | None = None
    max_tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def calls(self) -> tuple[tuple[Call, ...], ...]:
        """The calls of each chain."""
        return tuple(tuple(s.call for s in chain if s.call is not None) for chain in self.chains)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> NoiseTask:
        """Read a task.

        Raises:
            ValueError: It has no id or no chain, or a step is neither a call nor said.
        """
        name: Any = raw.get("id", raw.get("task"))
        if not isinstance(name, str) or not name:
            raise ValueError(f"a task must have an id, got {name!r}")
        given: Any = raw.get("chains")
        if given is None:
            given = [raw.get("golden", raw.get("chain"))]
        if not isinstance(given, list) or not given:
            raise ValueError(f"task {name!r} must have a golden chain, got {given!r}")
        chains = tuple(_chain(name, raw, chain) for chain in cast("list[Any]", given))
        literals = _literals(chains)
        extra: Any = raw.get("protected") or ()
        return cls(
            id=name, chains=chains, opening=str(raw.get("opening") or ""),
            protected=tuple(dict.fromkeys([*literals, *map(str, extra)])),
            max_turns=_limit(name, raw, "max_turns"), max_tokens=_limit(name, raw, "max_tokens"),
            raw=raw,
        )  # fmt: skip


def _chain(name: str, raw: Mapping[str, Any], given: Any) -> tuple[Step, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"task {name!r} must have a golden chain, got {given!r}")
    steps = [_step(name, step) for step in cast("list[Any]", given)]
    answer = raw.get("answer")
    if isinstance(answer, str) and answer and steps[-1].call is not None:
        steps.append(Step(say=answer))
    if all(step.call is None for step in steps):
        raise ValueError(f"task {name!r} must have a call in its chain, got none")
    return tuple(steps)


def _step(name: str, given: Any) -> Step:
    if isinstance(given, Mapping):
        step = cast("Mapping[str, Any]", given)
        tool, said = step.get("tool", step.get("name")), step.get("say")
        if isinstance(tool, str) and tool:
            return Step(Call(tool, read_arguments(step.get("arguments"))), "", step.get("result"))
        if isinstance(said, str) and said:
            return Step(say=said)
    raise ValueError(f"task {name!r}: a step must have a tool or something to say, got {given!r}")


def _limit(name: str, raw: Mapping[str, Any], key: str) -> int | None:
    value: Any = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"task {name!r}: {key} must be a whole number above 0, got {value!r}")
    return value


def _literals(chains: Iterable[tuple[Step, ...]]) -> list[str]:
    """Return the values of all arguments, and their words."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for item in cast("Mapping[str, Any]", value).values():
                walk(item)
        elif isinstance(value, list | tuple):
            for item in cast("list[Any]", value):
                walk(item)
        elif value is not None and not isinstance(value, bool) and str(value).strip():
            found.append(str(value))
            found.extend(word for word in re.findall(r"\w+", str(value)) if len(word) > 1)

    for chain in chains:
        for step in chain:
            walk(step.call.arguments if step.call else {})
    return list(dict.fromkeys(found))


def read_jsonl(lines: Iterable[str]) -> tuple[Book, list[NoiseTask]]:
    """Read contracts and tasks, one a line in any order.

    A line with a chain is a task, any other with a name a contract; a task may bring its tools'
    contracts with it, as `contracts` or as function tools under `tools`.

    Raises:
        ValueError: A line is neither; the message names it.
    """
    contracts: dict[str, Contract] = {}
    tasks: list[NoiseTask] = []

    def declare(raw: Any) -> None:
        contract = Contract.read(cast("Mapping[str, Any]", raw))
        if contracts.setdefault(contract.name, contract) != contract:
            raise ValueError(f"tool {contract.name!r} is declared twice, and not alike")

    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw: Any = json.loads(line)
            if not isinstance(raw, Mapping):
                raise ValueError(f"must be an object, got {line[:40]!r}")
            fields = cast("Mapping[str, Any]", raw)
            if any(key in fields for key in ("golden", "chain", "chains")):
                tasks.append(NoiseTask.read(fields))
                for item in (*(fields.get("contracts") or ()), *(fields.get("tools") or ())):
                    if isinstance(item, Mapping):
                        declare(item)
            else:
                declare(fields)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
    return Book(contracts), tasks
