"""Who waits for words, and the batch that samples them with one version's weights."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from torch import Tensor

from longcat_dora import Completion

from ._cache import Kept, RowCache
from ._static import StaticDecoder


@dataclass(slots=True, eq=False)
class Conversation:
    version: int
    rng: random.Random
    tokens: list[int] = field(default_factory=list[int])
    num_cached: int = 0
    kept: Kept | None = None


@dataclass(slots=True, eq=False)
class Request:
    conversation: Conversation
    max_tokens: int
    temperature: float
    done: asyncio.Future[Completion]
    token_ids: list[int] = field(default_factory=list[int])
    log_probs: list[float] = field(default_factory=list[float])
    reason: str = ""


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
