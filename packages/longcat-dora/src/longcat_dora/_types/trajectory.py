"""Tasks, and what is sampled for them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

from . import encoding
from .errors import LongcatDoraError


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be tried `attempts` times, or `group_size` times where that is not said."""

    id: str
    payload: Any
    """What the rollout function receives; picklable."""
    domain: str = ""
    attempts: int | None = None
    """Members of its group: a dynamic rollout budget gives tasks what they are worth."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of tokens that grew without being rendered again.

    A trainer whose `batch_format` is `"numpy"` is given numpy arrays in place of the first three
    lists.
    """

    token_ids: list[int]
    loss_mask: list[bool]
    """True where the policy sampled the token."""
    log_probs: list[float]
    """Of sampled tokens under the version that sampled them, in float32; 0 elsewhere."""
    moves: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Where another version than the trajectory's took over: position of its first token, version.
    Empty unless `at_bound` let the trajectory go on."""
    ends: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Where the policy stopped speaking: position after its last token, and why (`stop`, `length`,
    or what the engine says)."""

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
        return sum(bytes(segment.loss_mask).count(1) for segment in self.segments)

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
            mask, begin, now = segment.loss_mask.copy(), 0, self.version
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
                [encoding.turns_of(mask), segment.moves, segment.ends]
                for mask, segment in zip(masks, self.segments, strict=True)
            ],
        }  # fmt: skip
        columns = zip(self.segments, masks, strict=True)
        return encoding.encode(head, [(s.token_ids, s.log_probs, mask) for s, mask in columns])

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, *, as_arrays: bool = False) -> Trajectory:
        """Read what `to_bytes` wrote.

        Args:
            data: The bytes.
            as_arrays: Give segments numpy arrays in place of lists: ids as int32 that lie where
                `data` does, the mask as bool, log-probs as float32.

        Raises:
            LongcatDoraError: It is something else.
        """
        try:
            head, columns = encoding.decode(memoryview(data).cast("B"), as_arrays=as_arrays)
            places = head.pop("segments")
            segments = [
                Segment(*column, [*map(tuple, moves)], [*map(tuple, ends)])
                for column, (_, moves, ends) in zip(columns, places, strict=True)
            ]
            return cls(segments=segments, **head)
        except (struct.error, ValueError, KeyError, TypeError, IndexError) as error:
            raise LongcatDoraError(f"these bytes are no trajectory: {error}") from error


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
    """Times that a client sent what was said before in other words, so that another segment
    began."""

    @classmethod
    def of(cls, trajectory: Trajectory, *, num_splits: int = 0) -> Finished:
        """Take what matters of a trajectory."""
        versions = trajectory.versions
        return cls(
            trajectory.id, versions[-1], versions, trajectory.domain, trajectory.reward,
            trajectory.num_tokens, trajectory.num_sampled, trajectory.duration_s,
            trajectory.is_truncated, num_splits,
        )  # fmt: skip
