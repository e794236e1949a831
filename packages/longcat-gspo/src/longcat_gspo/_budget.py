"""How many rollouts each task deserves, from its pass rate under the present policy.

Maximise `sum V(B_i, p_i)` subject to `sum B_i = total` and `low <= B_i <= high`. With a value whose
marginal gains fall, taking the best next rollout from a heap is optimal; where a value can say its
gains all at once, the same choice is made by their threshold, which is quick for many tasks. Where
gains rise somewhere (`knapsack_value` from 0: one rollout is worth nothing, two are), both are
wrong, and the problem is solved by dynamic programming.

Dimension key: N tasks, G rollouts from `low` + 1 to `high`.

Source: LongCat-Flash-Thinking-2601 eq. 2 (the problem and the heap). Values: CoBA-RL, arXiv
2602.03048, whose constants are partly ours, as the paper does not print them; the knapsack's,
2509.25849, as read in notes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._numbers import keep, number, whole

Value = Callable[[int, float], float]
"""`value(budget, pass_rate)`; with a method `gains(rates_N, low, high) -> (N, G)` it is quick
too."""


_GREATEST = 1e6
"""Of what shapes CoBA's value: beyond, the density's norm has no digits left."""

_MOST_WORK = 2_000_000_000
"""Of the exact solution: tasks, times rollouts, times rollouts a task; some seconds."""


@dataclass(frozen=True, slots=True)
class CobaValue:
    """`(1 - exp(-B/tau * p(1-p))) * Beta_pdf(p; alpha, beta)`: peaked at the frontier."""

    alpha: float
    beta: float
    tau: float = 8.0

    def __post_init__(self) -> None:
        keep(self, **{name: number(name, getattr(self, name)) for name in ("alpha", "beta", "tau")})
        if not all(0 < value <= _GREATEST for value in (self.alpha, self.beta, self.tau)):
            raise ValueError(
                f"alpha, beta, tau must be positive and at most {_GREATEST:g}, got {self.alpha}, "
                f"{self.beta}, {self.tau}"
            )

    def __call__(self, budget: int, pass_rate: float) -> float:
        """Return what so many rollouts are worth."""
        if not 0 < pass_rate < 1:
            return 0.0
        saturation = -math.expm1(-budget / self.tau * pass_rate * (1 - pass_rate))
        return saturation * math.exp(
            (self.alpha - 1) * math.log(pass_rate)
            + (self.beta - 1) * math.log(1 - pass_rate)
            - self._log_norm
        )

    @property
    def _log_norm(self) -> float:
        a, b = self.alpha, self.beta
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    def gains(self, rates_N: Tensor, low: int, high: int) -> Tensor:
        """Return what each further rollout adds, (N, G)."""
        inside = (rates_N > 0) & (rates_N < 1)
        p = torch.where(inside, rates_N, 0.5)
        density = ((self.alpha - 1) * p.log() + (self.beta - 1) * (1 - p).log()).exp()
        density = torch.where(inside, density, 0.0) * math.exp(-self._log_norm)
        rate_N1 = (p * (1 - p) / self.tau)[:, None]
        budget_G = torch.arange(low, high, dtype=p.dtype)
        # exp(-B r) - exp(-(B + 1) r), without losing digits.
        return -density[:, None] * (-budget_G * rate_N1).exp() * torch.expm1(-rate_N1)


def coba_value(*, alpha: float, beta: float, tau: float = 8.0) -> CobaValue:
    """Return CoBA's value of rollouts."""
    return CobaValue(alpha, beta, tau)


def knapsack_value(budget: int, pass_rate: float) -> float:
    """`(1 - p^B - (1-p)^B) * p (1-p)^2`: the chance of a mixed group times what it would teach.

    The report behind it gives what is left over to tasks of pass rate 0; here they are worth
    nothing.
    """
    p = pass_rate
    return (1 - p**budget - (1 - p) ** budget) * p * (1 - p) ** 2 if budget else 0.0


class CapabilityValue:
    """CoBA's value, whose peak moves with the policy: exploit what it can do, then explore.

    With F the moving average of `1 - mean pass rate`: `alpha = clip(alpha_min + lam F', alpha_min,
    alpha_max)` and `beta = kappa - alpha`, where F' is F above one half and `sigmoid(10 (F - 0.5))`
    below it. `kappa = 11` is the paper's; the other constants are ours.
    """

    def __init__(
        self,
        *,
        kappa: float = 11.0,
        alpha_min: float = 2.5,
        alpha_max: float = 7.5,
        lam: float = 6.0,
        tau: float = 8.0,
        memory: int = 5,
    ) -> None:
        kappa, lam = number("kappa", kappa), number("lam", lam)
        alpha_min, alpha_max = number("alpha_min", alpha_min), number("alpha_max", alpha_max)
        memory = whole("memory", memory)
        if not (0 < alpha_min <= alpha_max < kappa <= _GREATEST and memory >= 1 and lam >= 0):
            raise ValueError(
                f"need 0 < alpha_min <= alpha_max < kappa <= {_GREATEST:g}, lam >= 0 and "
                f"memory >= 1, got {alpha_min}, {alpha_max}, {kappa}, {lam} and {memory}"
            )
        CobaValue(alpha_min, kappa - alpha_min, tau)  # refuses a tau that is none
        self.kappa, self.alpha_min, self.alpha_max = kappa, alpha_min, alpha_max
        self.lam, self.tau = lam, number("tau", tau)
        self._failures: deque[float] = deque(maxlen=memory)

    def observe(self, pass_rates: Sequence[float]) -> None:
        """Take note of the pass rates of a step."""
        rates = _rates(pass_rates)
        if not rates:
            raise ValueError("a step must hold one pass rate at least, got none")
        self._failures.append(1 - sum(rates) / len(rates))

    @property
    def failure(self) -> float:
        """The moving average of the failure rate; one half before anything was seen."""
        return sum(self._failures) / len(self._failures) if self._failures else 0.5

    def value(self) -> CobaValue:
        """Return the value of rollouts under the present policy."""
        failure = self.failure
        shaped = failure if failure > 0.5 else 1 / (1 + math.exp(-10 * (failure - 0.5)))
        alpha = min(max(self.alpha_min + self.lam * shaped, self.alpha_min), self.alpha_max)
        return CobaValue(alpha, self.kappa - alpha, self.tau)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` restores."""
        return {"failures": list(self._failures)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a saved state."""
        self._failures = deque(state["failures"], maxlen=self._failures.maxlen)

    def explain(self, pass_rate: float, budget: int) -> str:
        """Say why a task of that pass rate got its budget."""
        value = self.value()
        peak = (value.alpha - 1) / (value.alpha + value.beta - 2)
        gain = value(budget + 1, pass_rate) - value(budget, pass_rate)
        return (
            f"pass rate {pass_rate:.2f}; the policy fails {self.failure:.2f}, so tasks near "
            f"{peak:.2f} are worth most; {budget} rollouts, the next would add {gain:.2g}"
        )


def allocate_budget(
    pass_rates: Sequence[float], *, total: int, low: int, high: int, value: Value
) -> list[int]:
    """Return the rollouts of each task: those of the greatest value in all.

    Raises:
        ValueError: `total` cannot be met within `low` and `high`, a pass rate is not in [0, 1], a
            value is not a number, or gains rise somewhere and the problem is too large to be solved
            exactly.
    """
    pass_rates = _rates(pass_rates)
    num = len(pass_rates)
    total, low, high = whole("total", total), whole("low", low), whole("high", high)
    if not 0 <= low <= high or not num * low <= total <= num * high:
        raise ValueError(
            f"total={total} must be within {num} tasks times [low={low}, high={high}] = "
            f"[{num * low}, {num * high}]"
        )
    if hasattr(value, "gains") and num and low < high:
        rates_N = torch.tensor(pass_rates, dtype=torch.float64)
        gains_NG = value.gains(rates_N, low, high)  # pyright: ignore[reportFunctionMemberAccess]
        _refuse_not_finite(gains_NG, pass_rates)
        if _falls(gains_NG):
            return _by_threshold(gains_NG, total - num * low, low)
        return _by_table(gains_NG, total - num * low, low)
    gains_of = {rate: _gains(value, rate, low, high) for rate in set(pass_rates)}
    _refuse_not_finite(torch.tensor(list(gains_of.values()), dtype=torch.float64), list(gains_of))
    if low == high or _falls(torch.tensor(list(gains_of.values()), dtype=torch.float64)):
        return _by_heap(pass_rates, total, low, high, value)
    gains_NG = torch.tensor([gains_of[rate] for rate in pass_rates], dtype=torch.float64)
    return _by_table(gains_NG, total - num * low, low)


def _rates(pass_rates: Sequence[float]) -> list[float]:
    """Plain numbers in [0, 1], of whatever sequence."""
    rates = [number(f"pass rate {place}", rate) for place, rate in enumerate(pass_rates)]
    for place, rate in enumerate(rates):
        if not 0 <= rate <= 1:
            raise ValueError(f"pass rates must be in [0, 1], got {rate} at {place}")
    return rates


def _refuse_not_finite(gains_NG: Tensor, rates: Sequence[float]) -> None:
    for place, is_finite in enumerate(gains_NG.isfinite().all(-1).tolist()):
        if not is_finite:
            raise ValueError(f"value must be finite for each budget, is not at {rates[place]}")


def _gains(value: Value, rate: float, low: int, high: int) -> list[float]:
    worth = [value(budget, rate) for budget in range(low, high + 1)]
    return [after - before for before, after in itertools.pairwise(worth)]


def _falls(gains_NG: Tensor) -> bool:
    """Whether no gain is above the one before it, but for rounding."""
    if gains_NG.shape[0] == 0 or gains_NG.shape[1] < 2:
        return True
    rise_N = gains_NG.diff(dim=1).amax(1)
    return bool((rise_N <= 1e-12 * (1 + gains_NG.abs().amax(1))).all())


def _by_heap(
    pass_rates: Sequence[float], total: int, low: int, high: int, value: Value
) -> list[int]:
    budget = [low] * len(pass_rates)

    def gain(task: int) -> float:
        rate, held = pass_rates[task], budget[task]
        return value(held + 1, rate) - value(held, rate)

    heap = [(-gain(task), task) for task in range(len(pass_rates)) if low < high]
    heapq.heapify(heap)
    for _ in range(total - len(pass_rates) * low):
        _, task = heapq.heappop(heap)
        budget[task] += 1
        if budget[task] < high:
            heapq.heappush(heap, (-gain(task), task))
    return budget


def _by_table(gains_NG: Tensor, num: int, low: int) -> list[int]:
    """The exact answer for any gains: the best value of the first tasks with each number."""
    num_tasks, most = gains_NG.shape
    if num_tasks * num * most > _MOST_WORK:
        raise ValueError(
            f"this value's gains rise somewhere between {low} and {low + most} rollouts, and "
            f"{num_tasks} "
            f"tasks with {num} further rollouts are too many to be solved exactly; raise low until "
            "gains fall (2 for knapsack_value)"
        )
    worth_NB = np.concatenate([np.zeros((num_tasks, 1)), np.cumsum(gains_NG.numpy(), 1)], axis=1)
    best = np.full(num + 1, -np.inf)
    best[0] = 0.0
    taken = np.zeros((num_tasks, num + 1), dtype=np.int32)
    for task in range(num_tasks):
        after = best.copy()
        for further in range(1, min(most, num) + 1):
            value = best[: num + 1 - further] + worth_NB[task, further]
            is_better = value > after[further:]
            after[further:][is_better] = value[is_better]
            taken[task, further:][is_better] = further
        best = after
    budget = [low] * num_tasks
    for task in reversed(range(num_tasks)):
        further = int(taken[task, num])
        budget[task] += further
        num -= further
    return budget


def _by_threshold(gains_NG: Tensor, num: int, low: int) -> list[int]:
    """Take the `num` largest of gains that fall along each row; of equal ones, earlier tasks."""
    if num == 0:
        return [low] * len(gains_NG)
    threshold = gains_NG.flatten().kthvalue(gains_NG.numel() - num + 1).values
    taken_N = (gains_NG > threshold).sum(1)
    equal_N = (gains_NG == threshold).sum(1)
    left = num - int(taken_N.sum())
    before_N = equal_N.cumsum(0) - equal_N
    taken_N += (left - before_N).clamp(min=0).minimum(equal_N)
    return (taken_N + low).tolist()
