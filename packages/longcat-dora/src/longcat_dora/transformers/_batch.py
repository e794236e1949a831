"""Who waits for words, and the batch that samples them with one version's weights."""

from __future__ import annotations

import asyncio
import math
import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from longcat_dora import Completion

from ._cache import Kept, RowCache
from ._static import StaticDecoder

_LEAST_HEAT = 1e-6
"""Logits over less may be infinite, and log-probs no numbers."""


@dataclass(slots=True, eq=False)
class Conversation:
    version: int
    rng: random.Random
    tokens: list[int] = field(default_factory=list[int])
    num_cached: int = 0
    kept: Kept | None = None
    running: Request | None = None


@dataclass(slots=True, eq=False)
class Request:
    conversation: Conversation
    max_tokens: int
    temperature: float
    done: asyncio.Future[Completion]
    token_ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    reason: str = ""
    is_interrupted: bool = False


@dataclass(slots=True, eq=False)
class Version:
    """Weights, and the batch that is sampled with them; row n is `active[n]`'s."""

    tensors: dict[str, Tensor]
    cache: RowCache
    active: list[Request] = field(default_factory=list[Request])
    has_adapter: bool = False
    decoder: StaticDecoder | None = None

    def __post_init__(self) -> None:
        self.has_adapter = any("lora_" in name or ".default" in name for name in self.tensors)


def asked(requests: list[Request]) -> tuple[list[float], list[float]]:
    """Return temperatures, and the uniform numbers that decide."""
    heat = [request.temperature for request in requests]
    return heat, [request.conversation.rng.random() for request in requests]


def checked_ids(token_ids: Sequence[int], num_words: int) -> list[int]:
    """Return tokens as plain numbers; one that is none of the model's would fail the whole batch.

    Raises:
        ValueError: There is such a one.
    """
    found = list[int]()
    for token in token_ids:
        number = _whole(token)
        if number is None or not 0 <= number < num_words:
            raise ValueError(f"token ids must be from 0 to {num_words - 1}, got {token!r:.60}")
        found.append(number)
    return found


def check_sampling(max_tokens: int, temperature: float) -> None:
    """Find a length that is never reached, and temperatures of which there is no distribution.

    Raises:
        ValueError: There is one.
    """
    if _whole(max_tokens) is None:
        raise ValueError(f"max_tokens must be a whole number, got {max_tokens!r:.60}")
    if temperature != 0 and not _LEAST_HEAT <= temperature < math.inf:
        raise ValueError(
            f"temperature must be 0 or finite and at least {_LEAST_HEAT:g}, got {temperature!r:.60}"
        )


def _whole(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None


def are_alike(held: dict[str, Tensor], new: dict[str, Tensor]) -> bool:
    return held.keys() == new.keys() and all(
        (held[name].shape, held[name].dtype) == (t.shape, t.dtype) for name, t in new.items()
    )


def begin_as_others(version: Version, row: int, conversation: Conversation) -> int:
    """Copy what a row has in common with the one that begins most alike; return how much."""
    most, source = 0, -1
    for place, request in enumerate(version.active):
        other = request.conversation
        num = min(other.num_cached, len(conversation.tokens) - 1)
        if num <= most or other.tokens[:most] != conversation.tokens[:most]:
            continue
        pairs = enumerate(zip(other.tokens[:num], conversation.tokens, strict=False))
        num = next((n for n, (a, b) in pairs if a != b), num)
        if num > most:
            most, source = num, place
    if most:
        version.cache.copy(source, row, most)
    return most
