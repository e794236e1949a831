"""How many rollouts each task deserves, from its pass rate under the present policy.

Maximise `sum V(B_i, p_i)` subject to `sum B_i = total` and `low <= B_i <= high`. With a value whose
marginal gains fall, taking the best next rollout from a heap is optimal.

Source: LongCat-Flash-Thinking-2601 eq. 2 (the problem and the heap); the value is that of CoBA-RL,
arXiv 2602.03048, whose constants are partly ours, as the paper does not print them.
"""

import heapq
import math
from collections.abc import Callable, Sequence

Value = Callable[[int, float], float]
"""`value(budget, pass_rate)`."""


def coba_value(*, alpha: float, beta: float, tau: float = 8.0) -> Value:
    """`(1 - exp(-B/tau * p(1-p))) * Beta_pdf(p; alpha, beta)`: saturating, peaked at the frontier."""
    if alpha <= 0 or beta <= 0 or tau <= 0:
        raise ValueError(f"alpha, beta, tau must be positive, got {alpha}, {beta}, {tau}")
    log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)

    def value(budget: int, pass_rate: float) -> float:
        if not 0 < pass_rate < 1:
            return 0.0
        log_density = (alpha - 1) * math.log(pass_rate) + (beta - 1) * math.log(1 - pass_rate)
        saturation = -math.expm1(-budget / tau * pass_rate * (1 - pass_rate))
        return saturation * math.exp(log_density - log_norm)

    return value


def allocate_budget(
    pass_rates: Sequence[float], *, total: int, low: int, high: int, value: Value
) -> list[int]:
    """Return the rollouts of each task.

    Raises:
        ValueError: `total` cannot be met within `low` and `high`.
    """
    num = len(pass_rates)
    if not 0 <= low <= high or not num * low <= total <= num * high:
        raise ValueError(
            f"total={total} must be within {num} tasks times [low={low}, high={high}] = "
            f"[{num * low}, {num * high}]"
        )
    budget = [low] * num

    def gain(task: int) -> float:
        rate, held = pass_rates[task], budget[task]
        return value(held + 1, rate) - value(held, rate)

    heap = [(-gain(task), task) for task in range(num) if low < high]
    heapq.heapify(heap)
    for _ in range(total - num * low):
        _, task = heapq.heappop(heap)
        budget[task] += 1
        if budget[task] < high:
            heapq.heappush(heap, (-gain(task), task))
    return budget
