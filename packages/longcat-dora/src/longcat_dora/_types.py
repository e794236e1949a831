"""The vocabulary: tasks, trajectories and what a user's code meets."""

from __future__ import annotations

import functools
import inspect
import json
import struct
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import compress, islice
from pathlib import Path
from typing import Any, Protocol


class LongcatDoraError(Exception):
    """The run cannot go on; the message says who waited for what, or what was refused."""


class Mask(Exception):
    """Raise it in a rollout whose signal is incomplete: a grader that failed, an answer cut by length.

    The trajectory is not trained on and not tried again; an error, by contrast, is.
    """


class Invalid(Exception):
    """Return or raise it in a rollout whose world broke: its own fault, not the agent's.

    The trajectory ends as `invalid` with this reason, is tried again within the limits, and is never trained on.

    Example:
        async def world(task, policy):
            if not await database.is_up():
                return Invalid("the database is down")
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EndReason(StrEnum):
    """Why a trajectory was not trained on. Every one that is not committed has one of these."""

    FAILED = "failed"
    """The rollout raised, or returned what cannot be trained on; another attempt takes its place."""
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
    MASKED = "masked"
    """Its rollout raised `Mask`: the signal is incomplete, and the group makes do without it."""
    INVALID = "invalid"
    """Its world said `Invalid`; another attempt takes its place."""
    DAMAGED = "damaged"
    """Its bytes, or its task's, are not what was written; it is sampled anew."""
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
    """Of sampled tokens under the version that sampled them, in float32; 0 elsewhere."""
    moves: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Where another version than the trajectory's took over: position of its first token, version. Empty
    unless `at_bound` let the trajectory go on."""
    ends: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Where the policy stopped speaking: position after its last token, and why (`stop`, `length`, or what
    the engine says)."""

    @property
    def is_truncated(self) -> bool:
        """Whether an answer was cut by its length."""
        return any(reason == "length" for _, reason in self.ends)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished attempt at a task, sampled by one policy version."""

    id: str
    group: str
    task: str
    domain: str
    version: int
    """Of its first token."""
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

    @property
    def is_truncated(self) -> bool:
        """Whether an answer was cut by its length."""
        return any(segment.is_truncated for segment in self.segments)

    @property
    def versions(self) -> list[int]:
        """All that sampled it, in order; one, unless it went on under a newer one."""
        moves = [version for segment in self.segments for _, version in segment.moves]
        return sorted({self.version, *moves})

    def masked_before(self, version: int) -> Trajectory:
        """Return it with nothing to learn from tokens of older versions."""
        segments: list[Segment] = []
        for segment in self.segments:
            mask, begin, now = list(segment.loss_mask), 0, self.version
            for position, after in [*segment.moves, (len(mask), now)]:
                if now < version:
                    mask[begin:position] = [False] * (position - begin)
                begin, now = position, after
            segments.append(replace(segment, loss_mask=mask))
        return replace(self, segments=segments)

    def to_bytes(self) -> bytes:
        """Return a JSON header and the numbers as they lie in memory (little-endian).

        Four bytes a token, and four more if it was sampled: who spoke when is told by lengths.
        """
        return b"".join(self.to_parts())

    def to_parts(self) -> list[bytes | memoryview]:
        """Return `to_bytes` in pieces, so that they need not be joined to be written."""
        masks = [bytes(segment.loss_mask) for segment in self.segments]
        head = {
            "id": self.id, "group": self.group, "task": self.task, "domain": self.domain,
            "version": self.version, "reward": self.reward, "info": self.info,
            "duration_s": self.duration_s,
            "segments": [
                [_turns(mask), segment.moves, segment.ends]
                for mask, segment in zip(masks, self.segments, strict=True)
            ],
        }  # fmt: skip
        header = json.dumps(head, separators=(",", ":")).encode()
        parts: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, len(header)), header]
        for mask, segment in zip(masks, self.segments, strict=True):
            parts += [
                memoryview(array("i", segment.token_ids)).cast("B"),
                memoryview(array("f", compress(segment.log_probs, mask))).cast("B"),
            ]
        return parts

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Trajectory:
        """Read what `to_bytes` wrote.

        Raises:
            LongcatDoraError: It is something else.
        """
        try:
            return cls._parse(memoryview(data))
        except (struct.error, ValueError, KeyError, TypeError, IndexError) as error:
            raise LongcatDoraError(f"these bytes are no trajectory: {error}") from error

    @classmethod
    def _parse(cls, view: memoryview) -> Trajectory:
        magic, length = _HEAD.unpack_from(view)
        if magic != _MAGIC:
            raise LongcatDoraError(f"a trajectory must begin with {_MAGIC!r}, got {magic!r}")
        offset = _HEAD.size + length
        head = json.loads(bytes(view[_HEAD.size : offset]))
        segments: list[Segment] = []
        for turns, moves, ends in head.pop("segments"):
            ids, sampled = array("i"), array("f")
            end = offset + 4 * sum(turns)
            ids.frombytes(view[offset:end])
            offset = end + 4 * sum(turns[1::2])
            sampled.frombytes(view[end:offset])
            mask: list[bool] = []
            log_probs: list[float] = []
            rest = iter(sampled.tolist())
            for turn, length in enumerate(turns):
                mask += [turn % 2 == 1] * length
                log_probs += islice(rest, length) if turn % 2 else [0.0] * length
            if not len(ids) == len(mask) == len(log_probs):
                raise ValueError(f"{len(mask)} tokens are announced, {len(ids)} are there")
            segments.append(
                Segment(ids.tolist(), mask, log_probs, [*map(tuple, moves)], [*map(tuple, ends)])
            )
        return cls(segments=segments, **head)


_MAGIC, _HEAD = b"LCT3", struct.Struct("<4sI")


def _turns(mask: bytes) -> list[int]:
    """Lengths of a mask's stretches, which are in turn 0 and 1; the first may have none."""
    turns: list[int] = []
    begin, sought = 0, 1
    while begin < len(mask):
        end = mask.find(sought, begin)
        end = len(mask) if end < 0 else end
        turns.append(end - begin)
        begin, sought = end, 1 - sought
    return turns


@dataclass(frozen=True, slots=True)
class Payload:
    """Where a trajectory's bytes lie: in a file of the log's folder, with their checksum."""

    file: str
    offset: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class Finished:
    """What a manager knows of a finished trajectory; its tokens stay where they lie."""

    id: str
    version: int
    """Of its newest token."""
    versions: list[int]
    domain: str
    reward: float
    num_tokens: int
    num_sampled: int
    duration_s: float
    is_truncated: bool = False
    num_splits: int = 0
    """Times that a client sent what was said before in other words, so that another segment began."""

    @classmethod
    def of(cls, trajectory: Trajectory, *, num_splits: int = 0) -> Finished:
        """Take what matters of a trajectory."""
        versions = trajectory.versions
        return cls(
            trajectory.id, versions[-1], versions, trajectory.domain, trajectory.reward,
            trajectory.num_tokens, trajectory.num_sampled, trajectory.duration_s,
            trajectory.is_truncated, num_splits,
        )  # fmt: skip


class Sampled(Protocol):
    """What an engine returns for one request."""

    @property
    def token_ids(self) -> list[int]:
        """Sampled ids."""
        ...

    @property
    def log_probs(self) -> list[float]:
        """One per sampled id; of the model, or at the sampling's temperature: the engine says which."""
        ...

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""
        ...


class Engine(Protocol):
    """Generates under several weight versions at once. `longcat_moe.Engine` is one.

    If it has a method `async def stop()`, that is called when its controller ends.
    """

    def load_weights(self, version: int, weights: bytes | memoryview) -> None:
        """Make a version available beside those that are live.

        A view stays valid while it is referred to, and cannot be written to.
        """
        ...

    def retire(self, version: int) -> None:
        """Free a version once its last conversation has closed."""
        ...

    async def open(self, version: int, *, seed: int | None = None) -> int:
        """Begin a conversation on a version; it stays on it. `seed` makes what it samples repeatable.

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
    """An engine that can end a request with what it has, as `at_bound="continue"` and `"mask"` like it."""

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


class Trainer(Protocol):
    """Learns from batches."""

    def train(self, batch: Sequence[Trajectory]) -> Mapping[str, float]:
        """Take one step; return metrics."""
        ...

    def weights(self) -> bytes:
        """The weights, for `Engine.load_weights`."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `restore` needs to take the same next step into an empty folder."""
        ...

    def restore(self, folder: Path) -> None:
        """Return to what `save` wrote."""
        ...


class Policy(Protocol):
    """What a rollout function talks to."""

    @property
    def finish_reason(self) -> str | None:
        """Why the last answer ended: `stop`, `length`, or what the engine says; `None` before the first."""
        ...

    async def chat(
        self, messages: list[dict[str, Any]], *, tools: list[dict[str, Any]]
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
