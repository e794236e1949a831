"""The tool dependency graph of a domain, and what can be derived from it.

An edge runs from a tool to every tool that needs an id it yields. A tool is *satisfied* by a set of
tools when that set yields all ids it needs; `find` tools need none, as people name records by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

from ._tools import Tool

WRITES = ("act", "create", "update")


class ToolGraph:
    """Tools and their dependencies."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self.tools = dict(tools)
        self.successors = {
            name: tuple(o.name for o in tools.values() if o.name != name and tool.yields & o.needs)
            for name, tool in tools.items()
        }

    @property
    def num_edges(self) -> int:
        """Dependencies between two different tools."""
        return sum(len(names) for names in self.successors.values())

    def yields(self, names: Iterable[str]) -> frozenset[str]:
        """Entities whose ids these tools reveal."""
        return frozenset[str]().union(*(self.tools[name].yields for name in names))

    def is_satisfied(self, name: str, by: Iterable[str]) -> bool:
        """Whether the tools `by` yield every id that `name` needs."""
        return self.tools[name].needs <= self.yields(by)

    def expand(self, chain: Iterable[str]) -> list[str]:
        """Breadth-first closure R(chain): neighbours whose dependencies are already satisfied."""
        reached = list(dict.fromkeys(chain))
        queue = list(reached)
        while queue:
            for name in self._neighbours(queue.pop(0)):
                if name not in reached and self.is_satisfied(name, reached):
                    reached.append(name)
                    queue.append(name)
        return reached

    def grow(self, chain: Iterable[str], rng: Random, *, join: float, depth: int) -> list[str]:
        """Return the chain and part of its surroundings, breadth-first.

        Args:
            chain: Where to start.
            rng: Decides who joins.
            join: Probability with which each satisfied neighbour joins.
            depth: How many edges away from the chain a tool may be.
        """
        reached = list(dict.fromkeys(chain))
        frontier = list(reached)
        for _ in range(depth):
            joined: list[str] = []
            for name in dict.fromkeys(n for f in frontier for n in self._neighbours(f)):
                satisfied = name not in reached and self.is_satisfied(name, reached)
                if satisfied and rng.random() < join:
                    reached.append(name)
                    joined.append(name)
            frontier = joined
        return reached

    def within(self, chain: Iterable[str], distance: int) -> set[str]:
        """Return the tools at most `distance` edges away from the chain."""
        near = set(chain)
        for _ in range(distance):
            near |= {other for name in near for other in self._neighbours(name)}
        return near

    def _neighbours(self, name: str) -> list[str]:
        """Successors, and the other tools about the same entity."""
        entity = self.tools[name].entity
        same = [other for other, tool in self.tools.items() if tool.entity == entity]
        return [*self.successors[name], *same]

    def density(self, names: Iterable[str]) -> float:
        """Edges among `names` over the most there could be."""
        chosen = set(names)
        if len(chosen) < 2:
            return 0.0
        edges = sum(len(chosen.intersection(self.successors[name])) for name in chosen)
        return edges / (len(chosen) * (len(chosen) - 1))

    def is_executable(self, chain: Iterable[str]) -> bool:
        """Whether each tool of the chain is satisfied by those before it."""
        before: list[str] = []
        for name in chain:
            if not self.is_satisfied(name, before):
                return False
            before.append(name)
        return True

    def chain_for(self, goal: str, rng: Random, within: Iterable[str] | None = None) -> list[str]:
        """Return tools that lead to `goal`, in order, ending with it; empty if there is no way.

        Backward chaining over needs and yields. Where several readers yield an id, `rng` chooses.
        """
        allowed = set(self.tools) if within is None else set(within)
        chain: list[str] = []
        ok = goal in allowed and self._resolve(goal, allowed, rng, chain, frozenset())
        return chain if ok else []

    def _resolve(
        self, name: str, allowed: set[str], rng: Random, chain: list[str], above: frozenset[str]
    ) -> bool:
        for entity in sorted(self.tools[name].needs):
            if entity in self.yields(chain):
                continue
            sources = [
                other
                for other in sorted(allowed)
                if self.tools[other].kind in ("find", "list")
                and entity in self.tools[other].yields
                and other not in above
            ]
            finders = [other for other in sources if self.tools[other].kind == "find"]
            options = finders or sources
            rng.shuffle(options)
            for option in options:
                trial = list(chain)
                if self._resolve(option, allowed, rng, trial, above | {name}):
                    chain[:] = trial
                    break
            else:
                return False
        if name not in chain:
            chain.append(name)
        return True
