"""The vocabulary: tasks, trajectories and what a user's code meets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class LongcatDoraError(Exception):
    """The run cannot go on; the message says who waited for what, or what was refused."""


class EndReason(StrEnum):
    """Why a trajectory was not trained on. Every one that is not committed has one of these."""

    FAILED = "failed"
    """The rollout raised; another attempt takes its place."""
    DEADLINE = "deadline"
    """The rollout took longer than its deadline; another attempt takes its place."""
    CONTROLLER_LOST = "controller_lost"
    """Its process died; another attempt takes its place."""
    INTERRUPTED = "interrupted"
    """The run was stopped while it was being sampled, or too few of its group were finished."""
    EXPIRED = "expired"
    """It would have been older than the hard bound, and `at_bound` is `discard`; it is sampled anew."""
    ROLLED_BACK = "rolled_back"
    """Its policy version was undone by a restore to an earlier checkpoint."""
    NO_SIGNAL = "no_signal"
    """All rewards of its group are equal: nothing to learn."""
    RUN_ENDED = "run_ended"
    """The run took its last step first."""
    NOTHING_SAMPLED = "nothing_sampled"
    """The policy never spoke: there is no token to learn from."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be tried `group_size` times."""

    id: str
    payload: Any
    """What the rollout function receives; picklable."""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of tokens that grew without being rendered again."""

    token_ids: list[int]
    loss_mask: list[bool]
    """True where the policy sampled the token."""
    log_probs: list[float]
    """Of sampled tokens under the version that sampled them; 0 elsewhere."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished attempt at a task, sampled by one policy version."""

    id: str
    group: str
    task: str
    domain: str
    version: int
    segments: list[Segment]
    reward: float
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the rollout function returned beside the reward; JSON-able."""
    duration_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens of all segments."""
        return sum(len(segment.token_ids) for segment in self.segments)

    @property
    def num_sampled(self) -> int:
        """Tokens that the policy sampled."""
        return sum(sum(segment.loss_mask) for segment in self.segments)

    def to_bytes(self) -> bytes:
        """Return compressed JSON."""
        return zlib.compress(json.dumps(asdict(self), separators=(",", ":")).encode(), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Trajectory:
        """Read what `to_bytes` wrote."""
        raw = json.loads(zlib.decompress(data))
        raw["segments"] = [Segment(**segment) for segment in raw["segments"]]
        return cls(**raw)


class Sampled(Protocol):
    """What an engine returns for one request."""

    @property
    def token_ids(self) -> list[int]:
        """Sampled ids."""
        ...

    @property
    def log_probs(self) -> list[float]:
        """One per sampled id, at temperature 1."""
        ...

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""
        ...


class Engine(Protocol):
    """Generates under several weight versions at once. `longcat_moe.Engine` is one."""

    def load_weights(self, version: int, weights: bytes) -> None:
        """Make a version available beside those that are live."""
        ...

    def retire(self, version: int) -> None:
        """Free a version once its last conversation has closed."""
        ...

    async def open(self, version: int) -> int:
        """Begin a conversation on a version; it stays on it."""
        ...

    async def generate(
        self, identifier: int, token_ids: Sequence[int], *, max_tokens: int, temperature: float
    ) -> Sampled:
        """Append tokens to a conversation and sample its continuation."""
        ...

    async def close(self, identifier: int) -> None:
        """End a conversation."""
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


class Trainer(Protocol):
    """Learns from batches."""

    def train(self, batch: Sequence[Trajectory]) -> Mapping[str, float]:
        """Take one step; return metrics."""
        ...

    def weights(self) -> bytes:
        """The weights, for `Engine.load_weights`."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `restore` needs to take the same next step."""
        ...

    def restore(self, folder: Path) -> None:
        """Return to what `save` wrote."""
        ...


class Policy(Protocol):
    """What a rollout function talks to."""

    async def chat(
        self, messages: list[dict[str, Any]], *, tools: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The next assistant message; `None` when no room is left."""
        ...

    async def generate(self, token_ids: Sequence[int]) -> list[int]:
        """The continuation of a conversation given as tokens; empty when no room is left."""
        ...


Rollout = Callable[[Any, Policy], Awaitable[float | tuple[float, dict[str, Any]]]]
"""Tries one task's payload with a policy; returns the reward, or reward and information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a rollout controller runs; built inside its process by a factory."""

    engine: Engine
    rollout: Rollout
    renderer: Renderer | None = None
    """Needed for `Policy.chat`."""
    max_tokens: int = 256
    """Per request."""
    temperature: float = 1.0
