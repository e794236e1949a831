"""A solver of known accuracy and correlation, so that methods can be compared without a model.

Each problem has a chance p of being solved, drawn from a Beta distribution whose mean is
`accuracy` and whose intraclass correlation is `correlation`: two attempts at the same problem are
that much alike. A wrong attempt falls into the problem's one trap with chance `trap`, else it is
wrong in a way of its own. Below one half with a trap, voting makes it worse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random
from typing import Any

from longcat_heavythink._replies import Reply, Usage, plain_text

_QUOTED = re.compile(r"(?m)^# ----- Thinker #\d+ -----[^\n]*\n(?:\([^\n]*\)\n)?answer: (\S+)")


class SimulatedSolver:
    """An async function for `think` that answers `problem N`.

    Args:
        accuracy: Mean chance to solve a problem, between 0 and 1.
        correlation: Of two attempts at the same problem, from 0 (independent) to below 1.
        trap: Chance that a wrong attempt gives the problem's common wrong answer.
        insight: Chance that a summary finds the right one among the answers it is shown; else it
            repeats one of them at random.
        tokens: Of an attempt, on average.
        seed: Of everything.
    """

    def __init__(
        self, *, accuracy: float, correlation: float = 0.0, trap: float = 1.0,
        insight: float = 0.9, tokens: int = 100, seed: int = 0,
    ) -> None:  # fmt: skip
        if not 0 < accuracy < 1:
            raise ValueError(f"accuracy must be between 0 and 1, got {accuracy}")
        if not 0 <= correlation < 1:
            raise ValueError(f"correlation must be in [0, 1), got {correlation}")
        for name, value in (("trap", trap), ("insight", insight)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        self.accuracy, self.correlation = accuracy, correlation
        self._trap, self._insight, self._tokens, self._seed = trap, insight, tokens, seed
        self._draws: dict[int, int] = {}

    def chance(self, problem: int) -> float:
        """Return p, the chance to solve a problem."""
        if self.correlation == 0:
            return self.accuracy
        spread = 1 / self.correlation - 1
        random = Random(f"{self._seed}:chance:{problem}")
        return random.betavariate(self.accuracy * spread, (1 - self.accuracy) * spread)

    def truth(self, problem: int) -> str:
        """Return the right answer."""
        return f"right-{problem}"

    def attempt(self, problem: int, number: int) -> str:
        """Return the answer of one attempt; the same numbers give the same answer."""
        random = Random(f"{self._seed}:{problem}:{number}")
        if random.random() < self.chance(problem):
            return self.truth(problem)
        if random.random() < self._trap:
            return f"trap-{problem}"
        return f"wrong-{problem}-{number}"

    async def __call__(self, messages: list[Mapping[str, Any]], temperature: float) -> Reply:
        """Answer `problem N`, or sum up the answers that the prompt quotes."""
        text = plain_text(messages[-1]["content"])
        found = re.search(r"problem (\d+)", text)
        problem = int(found[1]) if found else 0
        number = self._draws[problem] = self._draws.get(problem, -1) + 1
        shown = _QUOTED.findall(text)
        answer = self._sum_up(problem, number, shown) if shown else self.attempt(problem, number)
        random = Random(f"{self._seed}:tokens:{problem}:{number}")
        used = Usage(len(text) // 4, max(1, round(random.expovariate(1 / self._tokens))))
        return Reply(text=f"answer: {answer}", usage=used, finish_reason="stop")

    def _sum_up(self, problem: int, number: int, shown: list[str]) -> str:
        random = Random(f"{self._seed}:summary:{problem}:{number}")
        if self.truth(problem) in shown and random.random() < self._insight:
            return self.truth(problem)
        return random.choice(shown)
