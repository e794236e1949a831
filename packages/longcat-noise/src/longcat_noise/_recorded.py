"""A world made of contracts and a golden chain alone, for tasks that come without one.

It remembers which writes happened. A read shows what it is known to answer, and the writes that
touched what it reads. The goal is reached when the writes of one chain happened, each once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._contract import Book, Contract, read_arguments
from ._draw import canonical
from ._kind import compact
from ._task import NoiseTask


@dataclass(frozen=True, slots=True)
class Seen:
    """What `reset` returns."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What `call` returns."""

    content: str
    is_error: bool = False


class RecordedWorld:
    """Answers by contract.

    Args:
        task: With its chains.
        book: Contracts; undeclared tools count as writers, as nobody knows better.
    """

    def __init__(self, task: NoiseTask, book: Book) -> None:
        self._task, self._book = task, book
        self._known = {
            (step.call.tool, canonical(step.call.arguments)): step.result
            for chain in task.chains
            for step in chain
            if step.call is not None
        }
        self._tools = {tool for tool, _ in self._known} | set(book.contracts)
        self._done: Counter[tuple[str, str]] = Counter()

    def reset(self) -> Seen:
        """Forget what happened."""
        self._done.clear()
        return Seen([{"role": "user", "content": self._task.opening}], [])

    def call(self, tool_call: Mapping[str, Any]) -> Answer:
        """Do what a call says."""
        tool = tool_call["function"]["name"]
        arguments = read_arguments(tool_call["function"]["arguments"])
        contract = self._book[tool]
        if tool not in self._tools:
            return Answer(contract.fail(f"there is no tool {tool}"), is_error=True)
        name = (tool, canonical(arguments))
        known = self._known.get(name)
        if contract.role == "reader":
            touched = [f"{t} {a}" for t, a in self._done if self._book[t].writes & contract.reads]
            return Answer(compact({"answer": known, "changes": sorted(touched)}))
        again = self._again(contract, arguments)
        if not (again and self._done[name]):
            self._done[name] += 1
        return Answer(compact({"answer": known, "done": True}))

    def _again(self, contract: Contract, arguments: Mapping[str, Any]) -> bool:
        """Whether the tool knows a call that comes twice."""
        return contract.is_idempotent or bool(contract.key and arguments.get(contract.key))

    def reply(self, message: dict[str, Any]) -> None:
        """Nobody answers."""

    def score(self) -> float:
        """Return 1 if the writes of one chain happened, each as often as it is there, else 0."""
        for calls in self._task.calls:
            wanted = Counter(
                (call.tool, canonical(call.arguments))
                for call in calls
                if self._book[call.tool].role != "reader"
            )
            if wanted == self._done:
                return 1.0
        return 0.0

    def close(self) -> None:
        """Nothing is held."""
