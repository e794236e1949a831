"""The tool graph of a domain, from contracts, and the part of it that an environment holds.

An edge runs from a tool to each that needs an id which it yields, and between writers where one
writes what the other's guards read. A tool is *satisfied* by tools that yield every id it needs.
Source: LongCat-Flash-Thinking-2601 report 3.1.1; the form of `growth_value` and its threshold are
ours (`_grow.py`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from random import Random

from longcat_envs._grow import growth_value
from longcat_envs.world import Tool

MIN_TOOLS = 20
JOIN = (0.25, 0.8)
"""Range of the probability, drawn per environment, with which a neighbour joins."""
MAX_DEPTH = 3
MAX_DRAWS = 8
"""Goals that the solver draws for another chain before there is none."""
THRESHOLD = 0.35
"""Another seed chain joins while the growth value is above this."""


class Graph:
    """Tools and their dependencies.

    Args:
        tools: The tools of a domain.
        threshold: Growth value above which an environment takes another chain.
    """

    def __init__(self, tools: Mapping[str, Tool], *, threshold: float = THRESHOLD) -> None:
        self.tools, self.threshold = dict(tools), threshold
        self.successors = {name: self._successors(tool) for name, tool in tools.items()}
        self.neighbours: dict[str, set[str]] = {name: set() for name in tools}
        for name, others in self.successors.items():
            for other in others:
                self.neighbours[name].add(other)
                self.neighbours[other].add(name)

    def _successors(self, tool: Tool) -> tuple[str, ...]:
        return tuple(
            other.name for other in self.tools.values()
            if other.name != tool.name and (
                (tool.of in other.needs and tool.of in tool.yields)
                or (tool.is_writer and other.is_writer and tool.writes & other.reads)
            )
        )  # fmt: skip

    @property
    def num_edges(self) -> int:
        """Dependencies between two different tools."""
        return sum(len(names) for names in self.successors.values())

    def yields(self, names: Iterable[str]) -> set[str]:
        """Classes whose ids these tools reveal."""
        return {of for name in names for of in self.tools[name].yields}

    def is_satisfied(self, name: str, by: Iterable[str]) -> bool:
        """Whether the tools `by` yield every id that `name` needs."""
        return self.tools[name].needs <= self.yields(by)

    def support(self, names: Iterable[str]) -> list[str]:
        """Return the searches that yield what tools need, and then the tools."""
        wanted = list(dict.fromkeys(names))
        needs = sorted({of for name in wanted for of in self.tools[name].needs})
        return list(dict.fromkeys([*(f"search_{of}" for of in needs), *wanted]))

    def grow(self, goal: Iterable[str], rng: Random) -> tuple[str, ...]:
        """Return the tools of an environment around the tools of a goal."""
        join, depth = rng.uniform(*JOIN), rng.randint(1, MAX_DEPTH)
        used = self._spread(self.support(goal), rng, join, depth)
        while chain := self._another_chain(used, rng):
            used |= self._spread(chain, rng, join, 1)
        floor = rng.randint(MIN_TOOLS, MIN_TOOLS + 8)
        while len(used) < floor and (unused := sorted(set(self.tools) - used)):
            used |= self._spread(self.support([rng.choice(unused)]), rng, join, 1)
        return tuple(name for name in self.tools if name in used)

    def _another_chain(self, used: set[str], rng: Random) -> list[str]:
        """Return a chain among the unused tools, or nothing where the growth value forbids it.

        A bounded solver draws goals until all that one needs is unused as well; the more it had to
        draw, the less another chain is worth.
        """
        unused = sorted(set(self.tools) - used)
        for attempt in range(1, MAX_DRAWS + 1) if unused else ():
            chain = self.support([rng.choice(unused)])
            if used.isdisjoint(chain):
                value = growth_value(num_used=len(used), num_unused=len(unused),
                                     density=self.density(used), num_attempts=attempt)  # fmt: skip
                return chain if value > self.threshold else []
        return []

    def _spread(self, seed: list[str], rng: Random, join: float, depth: int) -> set[str]:
        used, frontier = set(seed), list(seed)
        for _ in range(depth):
            near = sorted({other for name in frontier for other in self.neighbours[name]} - used)
            frontier = [n for n in near if self.is_satisfied(n, used) and rng.random() < join / 3]
            used.update(frontier)
        return used

    def density(self, names: Collection[str]) -> float:
        """Edges among `names` over the most there could be."""
        if len(names) < 2:
            return 0.0
        chosen = set(names)
        edges = sum(len(chosen.intersection(self.successors[name])) for name in chosen)
        return edges / (len(chosen) * (len(chosen) - 1))

    def share_near(self, chain: Iterable[str], names: Collection[str], distance: int = 2) -> float:
        """Return the share of `names` at most so many edges away from a chain."""
        near = {name for name in chain if name in self.tools}
        for _ in range(distance):
            near |= {other for name in near for other in self.neighbours[name]}
        return len(near.intersection(names)) / max(1, len(names))


def contracts(tools: Mapping[str, Tool]) -> list[str]:
    """Return the contracts as JSONL, one tool a line: the format is in `DESIGN.md`."""
    return [
        json.dumps({
            "tool": tool.name, "kind": tool.kind, "class": tool.of, "part": tool.part,
            "needs": sorted(tool.needs), "yields": sorted(tool.yields),
            "reads": sorted(tool.reads), "writes": sorted(tool.writes),
        }, separators=(",", ":"))
        for tool in tools.values()
    ]  # fmt: skip
