"""How often each task is tried: the dynamic rollout budget, where a recipe asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from longcat_gspo import CapabilityValue, Value, allocate_budget, knapsack_value

from longcat_cli.recipe import Rl


class Budget:
    """Shares `group_size` attempts a task, on average, out among the tasks of a batch.

    Source: LongCat-Flash-Thinking-2601 report eq. 2.
    """

    def __init__(self, rl: Rl) -> None:
        self._rl = rl
        self._capability = CapabilityValue()

    @property
    def num_tasks(self) -> int:
        """Among which a budget is shared out: drawn together, at the pass rates of that moment."""
        return 1 if self._rl.budget == "even" else self._rl.groups_per_batch

    def attempts(self, pass_rates: Sequence[float]) -> list[int | None]:
        """Return how often each task is tried; `None` is as often as all."""
        rl = self._rl
        if rl.budget == "even":
            return [None] * len(pass_rates)
        value: Value = knapsack_value if rl.budget == "knapsack" else self._capability.value()
        total = rl.group_size * len(pass_rates)
        return [
            *allocate_budget(
                pass_rates, total=total, low=rl.budget_low, high=rl.budget_high, value=value
            )
        ]

    def record(self, pass_rate: float) -> None:
        """Take note of a group: CoBA's value follows what the policy can do."""
        self._capability.observe([pass_rate])
