"""Grow environments, each with one task, from the tool graph of a domain.

1. A seed chain leads to one or two goals; goals used before are drawn less and less often.
2. Rows are made so that the chain is executable; words, golden steps and rubrics follow from it.
3. The environment's tools are a part of the graph around the chain: each satisfied neighbour joins
   with a probability drawn per environment, breadth-first to a depth drawn too. While the growth
   value `p = f(c, g, |D|)` is above its threshold, another seed chain grows from the unused tools.
4. An environment below its floor (`min_tools` at least, drawn) takes further random chains.
5. A task is kept only if it passes the audit (`_audit.py`).

Source: LongCat-Flash-Thinking-2601 report 3.1.1. The report gives neither the form of f nor the
threshold; ours are in `growth_value` and `GrowthConfig`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ._audit import audit
from ._fields import DomainError
from ._goals import Goal, Rule, TableBuilder, ground
from ._graph import ToolGraph
from ._spec import Action, Create, Domain, Update
from ._task import Rubric, Task
from ._tools import Tool, derive_tools

MAX_REJECTED = 500
"""Tasks turned away in a row before growing gives up."""
OPENINGS = {
    "brief": "{}.",
    "polite": "Hello. Please help me: {}. Thank you.",
    "plain": "I need this: {}.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthConfig:
    """How environments are grown."""

    min_tools: int = 20
    threshold: float = 0.3
    """Another seed chain joins while the growth value is above this."""
    decay: float = 0.7
    """A goal's weight is multiplied by this each time it is used."""
    join: tuple[float, float] = (0.25, 0.8)
    """Range of the probability, drawn per environment, with which a neighbouring tool joins."""
    max_depth: int = 3
    """How far from a seed chain an environment grows, at most; drawn per environment."""
    share_compound: float = 0.3
    """Share of tasks with two goals."""
    share_clarify: float = 0.15
    """Share of tasks whose opening leaves out a name, to be asked for."""
    rows_per_table: int = 5
    id_digits: int = 4
    """Digits of a record's id: `M4821` has four."""

    def __post_init__(self) -> None:
        for name in ("decay", "share_compound", "share_clarify"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if not 0 <= self.join[0] <= self.join[1] <= 1:
            raise ValueError(f"join must be an ordered pair in [0, 1], got {self.join}")
        for name in ("min_tools", "rows_per_table", "id_digits", "max_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if 10**self.id_digits < 4 * self.rows_per_table:
            raise ValueError(
                f"id_digits={self.id_digits} must leave room for rows_per_table="
                f"{self.rows_per_table}"
            )


@dataclass(frozen=True, slots=True)
class _Candidate:
    rule: Rule
    way: str
    chain: tuple[str, ...]


def growth_value(*, num_used: int, num_unused: int, density: float, num_attempts: int) -> float:
    """Return p in [0, 1]: high while much is unused and easily reached, and little is built.

    Args:
        num_used: Tools in the environment.
        num_unused: Tools of the graph outside it.
        density: Dependencies among the used tools over the most there could be (complexity c).
        num_attempts: Draws a solver needed to find another chain in the unused tools (g).
    """
    if num_unused == 0:
        return 0.0
    return num_unused / (num_used + num_unused) * math.exp(-density) / num_attempts


class Grower:
    """Grows audited tasks of one domain; the same seed grows the same tasks.

    Example:
        >>> grower = Grower(load_domain("library"), seed=1)
        >>> task = next(grower)
        >>> len(task.tools) >= 20
        True
    """

    def __init__(
        self, domain: Domain, *, seed: int, config: GrowthConfig | None = None, prefix: str = ""
    ) -> None:
        self.domain, self.config = domain, config or GrowthConfig()
        self.tools: dict[str, Tool] = derive_tools(domain)
        self.graph = ToolGraph(self.tools)
        self.num_rejected = 0
        """Tasks that the audit turned away so far."""
        self._rng = Random(f"{domain.name}:{seed}")
        self._uses: Counter[tuple[str, str]] = Counter()
        self._prefix = prefix or domain.name
        self._count = 0
        if len(self.tools) < self.config.min_tools:
            raise ValueError(
                f"domain {domain.name!r} must give at least min_tools={self.config.min_tools} "
                f"tools, gives {len(self.tools)}"
            )

    def __iter__(self) -> Iterator[Task]:
        return self

    def __next__(self) -> Task:
        faults: list[str] = []
        for _ in range(MAX_REJECTED):
            task = self._grow()
            if not (faults := audit(self.domain, self.tools, task)):
                self._count += 1
                return task
            self.num_rejected += 1
        raise DomainError(
            f"domain {self.domain.name!r} gives no task that passes the audit: {faults[0]}"
        )

    def _grow(self) -> Task:
        rng, config = self._rng, self.config
        num_goals = 2 if rng.random() < config.share_compound else 1
        chosen = [self._draw() for _ in range(num_goals)]
        builder = TableBuilder(self.domain, rng, id_digits=config.id_digits)
        goals = [ground(candidate.rule, candidate.way, builder) for candidate in chosen]
        builder.fill(config.rows_per_table)
        tools = self._grow_tools([name for candidate in chosen for name in candidate.chain])
        return self._task(goals, chosen, builder, tools)

    def _draw(self) -> _Candidate:
        """Sample a goal, and through the graph a chain that leads to it."""
        rng, domain = self._rng, self.domain
        rules: list[Rule] = [*domain.actions, *domain.creates, *domain.updates, *domain.questions]
        weights = [self.config.decay ** self._uses[_name(rule)] for rule in rules]
        rule = rng.choices(rules, weights)[0]
        self._uses[_name(rule)] += 1
        if min(self._uses[_name(rule)] for rule in rules) > 0:  # keep weights away from zero
            self._uses.subtract(_name(rule) for rule in rules)
        goal = rule.name if isinstance(rule, Action | Create | Update) else f"get_{rule.on}"
        for _ in range(100):
            chain = self.graph.chain_for(goal, rng)
            way = self.tools[chain[0]].entity
            if isinstance(rule, Create | Update) or way in rule.say:
                return _Candidate(rule, way, tuple(chain))
        raise AssertionError(f"no way of asking for {goal} was found")

    def _grow_tools(self, chain: list[str]) -> tuple[str, ...]:
        graph, rng = self.graph, self._rng
        join, depth = rng.uniform(*self.config.join), rng.randint(1, self.config.max_depth)
        used = graph.grow(chain, rng, join=join, depth=depth)
        while True:
            unused = [name for name in self.tools if name not in used]
            attempts, seed = self._another_chain(unused)
            p = growth_value(
                num_used=len(used),
                num_unused=len(unused),
                density=graph.density(used),
                num_attempts=attempts,
            )
            if p <= self.config.threshold or not seed:
                break
            used = list(dict.fromkeys([*used, *graph.grow(seed, rng, join=join, depth=depth)]))
        least = self.config.min_tools
        floor = rng.randint(least, max(least, min(int(1.15 * least), len(self.tools) - 2)))
        while len(used) < floor:
            goal = rng.choice([name for name in self.tools if name not in used])
            used = list(dict.fromkeys([*used, *graph.chain_for(goal, rng)]))
        return tuple(name for name in self.tools if name in used)

    def _another_chain(self, unused: list[str]) -> tuple[int, list[str]]:
        """Draw goals until one can be reached inside the unused tools (a bounded solver)."""
        for attempt in range(1, 9):
            if not unused:
                break
            chain = self.graph.chain_for(self._rng.choice(unused), self._rng, within=unused)
            if len(chain) > 1:
                return attempt, chain
        return 9, []

    def _task(
        self,
        goals: list[Goal],
        chosen: list[_Candidate],
        builder: TableBuilder,
        tools: tuple[str, ...],
    ) -> Task:
        rng = self._rng
        tone = rng.choice(list(OPENINGS))
        clear = " and also ".join(_say(goal, {}) for goal in goals)
        withheld, opening = "", clear
        if len(goals) == 1 and rng.random() < self.config.share_clarify:
            entity, name = rng.choice(list(goals[0].names.items()))
            withheld = f"The {entity} is {name}."
            opening = _say(goals[0], {entity: f"a {entity}"})
        kinds = {type(candidate.rule).__name__.lower() for candidate in chosen}
        tags = [*sorted(kinds), *["compound"] * (len(goals) > 1), *["clarify"] * bool(withheld)]
        answers = [goal.answer for goal in goals if goal.answer != "Done."]
        return Task(
            id=f"{self._prefix}-{self._count:05d}",
            domain=self.domain.name,
            tags=tuple(tags),
            description=clear,
            opening=OPENINGS[tone].replace("{}", opening[0].upper() + opening[1:]),
            withheld=withheld,
            profile={"tone": tone, "role": f"somebody at {self.domain.title}"},
            tools=tools,
            tables=builder.tables,
            golden=tuple(step for goal in goals for step in goal.steps),
            answer=" ".join(answers) or "Done.",
            rubrics=(
                *(rubric for goal in goals for rubric in goal.rubrics),
                Rubric(kind="untouched", description="nothing else changed"),
            ),
        )


def _name(rule: Rule) -> tuple[str, str]:
    if isinstance(rule, Action | Create | Update):
        return "rule", rule.name
    return rule.on, rule.column


def _say(goal: Goal, instead: dict[str, str]) -> str:
    words = goal.words
    for entity, name in {**goal.names, **instead}.items():
        words = words.replace("{" + entity + "}", name)
    return words
