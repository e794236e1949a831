"""Budgets that hold: what a call may cost at most is set aside before it is sent.

A call that would not be covered is not sent. What it really cost replaces what was set aside as
soon as it ends. Prompts are counted by `prompt_tokens`, which learns from what servers report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ._checks import check_number
from ._replies import Call, Message, Usage, plain_text

_CHARS_OF_A_FRAME = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Money per million tokens, in any currency."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        check_number("prompt", self.prompt)
        check_number("completion", self.completion)

    def of(self, usage: Usage) -> float:
        """Return what the tokens cost."""
        return (
            usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion
        ) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one run. `None` is no limit."""

    max_tokens: int | None = None
    """Prompt and completion tokens of all calls together."""
    max_time_s: float | None = None
    """From the start of the run; no call is sent after it, and those under way end."""
    max_cost: float | None = None
    price: Price | None = None
    think_share: float = 0.7
    """Share of the time that all stages but the last may use, so that it keeps its own."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_time_s", "max_cost"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, zero=False)
        if self.max_cost is not None and self.price is None:
            raise ValueError("max_cost needs a price")
        check_number("think_share", self.think_share)
        if not 0 < self.think_share <= 1:
            raise ValueError(f"think_share must be in (0, 1], got {self.think_share}")

    @property
    def counts_tokens(self) -> bool:
        """Whether a call's greatest cost must be known before it is sent."""
        return self.max_tokens is not None or self.max_cost is not None


class Ledger:
    """What a run has spent and set aside."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = Usage()
        self._aside = Usage()
        self._tokens_per_byte = 0.5
        """Pessimistic until a server has reported; then the highest seen."""
        self._has_seen = False

    @property
    def cost(self) -> float | None:
        """Return the money spent, where the price is known."""
        return self.budget.price.of(self.spent) if self.budget.price else None

    @property
    def has_aside(self) -> bool:
        """Whether a call is under way that may use less than was set aside for it."""
        return self._aside.total_tokens > 0

    def left_in_words(self) -> str:
        """Return what is left of the budget."""
        limits = self.budget
        if limits.max_tokens is not None:
            return f"{limits.max_tokens - self.spent.total_tokens} of {limits.max_tokens} are left"
        return f"{(limits.max_cost or 0) - (self.cost or 0):g} of {limits.max_cost:g} is left"

    def estimate(self, num_bytes: int, max_tokens: int) -> Usage:
        """Return the most that a call with a prompt of `num_bytes` may use."""
        prompt = math.ceil(num_bytes * self._tokens_per_byte)
        return Usage(prompt, max_tokens, estimated=True)

    def set_aside(self, most: Usage, keep: Usage | None = None) -> bool:
        """Set a call's greatest use aside; say whether the budget covers it.

        Args:
            most: Of the call.
            keep: Of the stages after it, which must remain.
        """
        total = self.spent + self._aside + most + (keep or Usage())
        limits = self.budget
        if limits.max_tokens is not None and total.total_tokens > limits.max_tokens:
            return False
        cost = limits.price.of(total) if limits.price else 0.0
        if limits.max_cost is not None and cost > limits.max_cost:
            return False
        self._aside = self._aside + most
        return True

    def settle(self, most: Usage, used: Usage, num_bytes: int) -> None:
        """Replace what was set aside by what was used."""
        self._aside = Usage(
            self._aside.prompt_tokens - most.prompt_tokens,
            self._aside.completion_tokens - most.completion_tokens,
        )
        self.spent = self.spent + used
        if used.prompt_tokens and num_bytes and not used.estimated:
            seen = used.prompt_tokens / num_bytes
            self._tokens_per_byte = max(seen, self._tokens_per_byte) if self._has_seen else seen
            self._has_seen = True


def prompt_bytes(call: Call) -> int:
    """Return the length of a call's prompt in bytes of UTF-8, tools and frames included."""
    total = 0
    for message in call.messages:
        total += _CHARS_OF_A_FRAME + len(plain_text(message.get("content")).encode("utf-8"))
        if message.get("tool_calls"):
            total += len(json.dumps(message["tool_calls"]))
    if call.tools:
        total += len(json.dumps(list(call.tools)))
    return total


def estimated_usage(messages: Sequence[Message], text: str, thoughts: str) -> Usage:
    """Return tokens as counted by us, for a server that does not say: four bytes each."""
    prompt = sum(len(plain_text(message.get("content")).encode()) for message in messages)
    return Usage(
        math.ceil(prompt / 4), math.ceil(len((text + thoughts).encode()) / 4), estimated=True
    )
