"""The sums of 1 to 15 that `smollm2_sums.py` and `beside_trl.py` train on, and their reward."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

NUM_HELD = 48


def held_out() -> list[dict[str, Any]]:
    """Sums that are never trained on."""
    return _shuffled()[:NUM_HELD]


def trained() -> list[dict[str, Any]]:
    """All others."""
    return _shuffled()[NUM_HELD:]


def _shuffled() -> list[dict[str, Any]]:
    pairs = [(a, b) for a in range(1, 16) for b in range(1, 16)]
    random.Random(0).shuffle(pairs)
    said = {"role": "system", "content": "Reply with the number only."}
    return [
        {"messages": [said, {"role": "user", "content": f"{a} + {b} ="}], "answer": str(a + b)}
        for a, b in pairs
    ]


def score(task: Mapping[str, Any], answer: str) -> float:
    """1 for the sum and nothing else; less the more is said around it, little for a wrong one."""
    words = answer.split()
    if not words:
        return 0.0
    if answer.strip().rstrip(".") == task["answer"]:
        return 1.0
    numbers = re.findall(r"\d+", answer)
    return (0.6 * (task["answer"] in numbers) + 0.2 * bool(numbers)) / len(words)
