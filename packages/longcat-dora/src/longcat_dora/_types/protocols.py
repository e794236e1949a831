"""What a user's code meets, and what it must have.

Engines, renderers, trainers, policies, workers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import Invalid
from .trajectory import Trajectory


class Sampled(Protocol):
    """What an engine returns for one request."""

    @property
    def token_ids(self) -> list[int]:
        """Sampled ids."""
        ...

    @property
    def log_probs(self) -> list[float]:
        """One per sampled id.

        Of the model, or at the sampling's temperature: the engine says which.
        """
        ...

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""
        ...


class Engine(Protocol):
    """Generates under several weight versions at once. `longcat_moe.Engine` is one.

    If it has a method `async def stop()`, that is called when its controller ends.
    """

    def load_weights(self, version: int, weights: Any) -> None:
        """Make a version available beside those that are live.

        Args:
            version: Its number.
            weights: What `Trainer.weights` gave: bytes, as bytes or a view; or a dictionary of
                named arrays, each of the library that it was given in. They lie in memory that
                cannot be written to, and that is there while it is referred to.
        """
        ...

    def retire(self, version: int) -> None:
        """Free a version once its last conversation has closed."""
        ...

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Begin a conversation on a version; it stays on it.

        `seed` makes what it samples repeatable.

        An engine that takes no seed may leave it out.
        """
        ...

    async def generate(
        self, identifier: int, token_ids: Sequence[int], *, max_tokens: int, temperature: float
    ) -> Sampled:
        """Append tokens to a conversation and sample its continuation."""
        ...

    async def close(self, identifier: int) -> None:
        """End a conversation."""
        ...


class InterruptibleEngine(Engine, Protocol):
    """An engine that can end a request with what it has: for `at_bound="continue"` and `"mask"`."""

    def interrupt(self, identifier: int) -> None:
        """Let a running `generate` return what is sampled, with the reason `interrupted`."""
        ...


class Renderer(Protocol):
    """Turns messages into token ids that only ever grow, and sampled ids back into a message."""

    def start(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> list[int]:
        """Ids of a conversation up to where the assistant is to speak."""
        ...

    def extend(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids to append after a sampled turn, up to where the assistant is to speak again."""
        ...

    def parse(self, token_ids: Sequence[int], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The message that the sampled ids stand for."""
        ...


Weights = bytes | bytearray | memoryview | Mapping[str, Any] | Iterable[tuple[str, Any]]
"""See `Trainer.weights`."""


class Trainer(Protocol):
    """Learns from batches.

    If it has an attribute `batch_format = "numpy"`, segments of its batches hold numpy arrays in
    place of lists.
    """

    def train(self, batch: Sequence[Trajectory]) -> Mapping[str, float]:
        """Take one step; return metrics."""
        ...

    def weights(self) -> Weights:
        """The weights, for `Engine.load_weights`.

        Bytes; or a dictionary of arrays; or an iterator of names and arrays, of which each is
        copied and digested before the next one is asked for: a model that is sharded is never whole
        in one place. Arrays are torch tensors, on any device, numpy arrays, or what else shows its
        memory.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what `restore` needs to take the same next step into an empty folder."""
        ...

    def restore(self, folder: Path) -> None:
        """Return to what `save` wrote."""
        ...


def wants_arrays(trainer: Trainer) -> bool:
    """Whether a trainer's batches are to hold numpy arrays.

    Raises:
        TypeError: Its `batch_format` is neither `"lists"` nor `"numpy"`.
    """
    found = getattr(trainer, "batch_format", "lists")
    if found not in ("lists", "numpy"):
        raise TypeError(f'a trainer\'s batch_format must be "lists" or "numpy", got {found!r}')
    return found == "numpy"


class Policy(Protocol):
    """What a rollout function talks to."""

    @property
    def finish_reason(self) -> str | None:
        """Why the last answer ended: `stop`, `length`, or what the engine says.

        `None` before the first.
        """
        ...

    async def chat(
        self, messages: list[dict[str, Any]], *, tools: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any] | None:
        """The next assistant message; `None` when no room is left."""
        ...

    async def generate(
        self, token_ids: Sequence[int], *, max_tokens: int | None = None
    ) -> list[int]:
        """The continuation of a conversation given as tokens; empty when no room is left.

        At most `max_tokens` of it, and the worker's.
        """
        ...


Outcome = float | tuple[float, dict[str, Any]] | Invalid
"""The reward, or reward and information (JSON-able), or that the world broke."""
Rollout = Callable[[Any, Policy], Awaitable[Outcome]]
"""Tries one task's payload with a policy."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a rollout controller runs; built inside its process by a factory."""

    engine: Engine
    rollout: Rollout
    renderer: Renderer | None = None
    """Needed for `Policy.chat`."""
    max_tokens: int = 256
    """Per request."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.rollout):
            raise TypeError(f"rollout must be an async function, got {type(self.rollout).__name__}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")

    @functools.cached_property
    def takes_seed(self) -> bool:
        """Whether the engine's `open` has the parameter."""
        return "seed" in inspect.signature(self.engine.open).parameters
