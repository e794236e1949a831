"""The vocabulary of the log: every kind of event, typed, with a format number.

Whoever writes or reads a log imports it from here. An event is a dictionary as JSON has it; a
`TypedDict` costs nothing at run time. A field that is added later is `NotRequired`; anything else
is another `FORMAT`.

    opened, (writer, published | restored ...)        a process begins to write
    admitted ─> started ─> (moved) ─> produced ─> leased ─> committed ─> published, weights, (saved)
                   │                     │
                   └──── ended ──────────┴──> evicted
    archived, noticed, closed
"""

# Without `from __future__ import annotations`: `__required_keys__` would not see `NotRequired`.
from typing import Any, Literal, NotRequired, TypedDict, cast

FORMAT = 3
"""Of the log: its kinds, their fields, and how lines are chained."""

PayloadFields = list[Any]
"""File, offset, length and checksum, as JSON has them: see `Payload`."""


class _Timed(TypedDict):
    at: NotRequired[float]
    """Seconds since the log was opened by the process that wrote it; added by the log."""


class Opened(_Timed):
    """A process began to write."""

    kind: Literal["opened"]
    hard_staleness: int
    at_bound: str
    soft_staleness: NotRequired[float]
    group_size: NotRequired[int]
    max_running: NotRequired[int]
    wall: NotRequired[float]
    """Seconds since the epoch."""
    torn_bytes: NotRequired[int]
    """Of a last line that a crash had left unfinished, and that was cut off."""


class Head(TypedDict):
    """The first line of every file of a log; no event, but the form of one."""

    kind: Literal["log"]
    format: int
    number: int
    """Of the file, from 0."""
    chain: int
    """Checksum of the last line of the file before."""


class Writer(_Timed):
    """A process may append trajectories to a file of its own."""

    kind: Literal["writer"]
    file: str


class Published(_Timed):
    """A version may be sampled on."""

    kind: Literal["published"]
    version: int


class Weights(_Timed):
    """What a version's weights are."""

    kind: Literal["weights"]
    version: int
    digest: str


class Saved(_Timed):
    """A checkpoint was written; those before the oldest kept one are gone."""

    kind: Literal["saved"]
    version: int
    kept: list[int]


class Restored(_Timed):
    """The run goes on from a checkpoint: steps at `version` and later are undone."""

    kind: Literal["restored"]
    version: int


class Admitted(_Timed):
    """A group of attempts at a task was opened."""

    kind: Literal["admitted"]
    group: str
    task: str
    domain: str
    size: int
    payload: NotRequired[PayloadFields]
    """Where the task lies as JSON; absent if it is not plain data."""


class Started(_Timed):
    """An attempt was ordered."""

    kind: Literal["started"]
    trajectory: str
    group: str
    version: int
    member: int
    attempt: int


class Moved(_Timed):
    """An attempt goes on under a newer version."""

    kind: Literal["moved"]
    trajectory: str
    before: int
    version: int


class Produced(_Timed):
    """An attempt was finished."""

    kind: Literal["produced"]
    trajectory: str
    group: str
    version: int
    """Of its newest token."""
    versions: NotRequired[list[int]]
    reward: NotRequired[float]
    tokens: NotRequired[int]
    sampled: NotRequired[int]
    domain: NotRequired[str]
    duration_s: NotRequired[float]
    truncated: NotRequired[bool]
    payload: NotRequired[PayloadFields]


class Ended(_Timed):
    """An attempt will not be trained on."""

    kind: Literal["ended"]
    trajectory: str
    reason: str
    detail: NotRequired[str]
    again: NotRequired[bool]
    """Whether another attempt takes its place."""


class Evicted(_Timed):
    """A group will not be trained on."""

    kind: Literal["evicted"]
    group: str
    reason: str
    trajectories: list[str]


class Leased(_Timed):
    """A step was begun."""

    kind: Literal["leased"]
    version: int
    groups: list[str]


class Committed(_Timed):
    """A step was taken."""

    kind: Literal["committed"]
    version: int
    """It was taken at; the next one is published after it."""
    trajectories: list[str]
    masked: NotRequired[list[str]]
    reused: NotRequired[list[str]]


class Archived(_Timed):
    """Files of the log before a number may be gone: their summary stands for them."""

    kind: Literal["archived"]
    before: int
    digest: str
    """Of the summary's file."""


class Noticed(_Timed):
    """Something that a person should hear of."""

    kind: Literal["noticed"]
    text: str


class Closed(_Timed):
    """The run is over."""

    kind: Literal["closed"]


Event = (
    Opened | Writer | Published | Weights | Saved | Restored | Admitted | Started
    | Moved | Produced | Ended | Evicted | Leased | Committed | Archived | Noticed | Closed
)  # fmt: skip

REQUIRED: dict[str, frozenset[str]] = {
    "opened": Opened.__required_keys__,
    "writer": Writer.__required_keys__,
    "published": Published.__required_keys__,
    "weights": Weights.__required_keys__,
    "saved": Saved.__required_keys__,
    "restored": Restored.__required_keys__,
    "admitted": Admitted.__required_keys__,
    "started": Started.__required_keys__,
    "moved": Moved.__required_keys__,
    "produced": Produced.__required_keys__,
    "ended": Ended.__required_keys__,
    "evicted": Evicted.__required_keys__,
    "leased": Leased.__required_keys__,
    "committed": Committed.__required_keys__,
    "archived": Archived.__required_keys__,
    "noticed": Noticed.__required_keys__,
    "closed": Closed.__required_keys__,
}
"""What an event of each kind must have."""
KINDS = frozenset(REQUIRED)


def problem_of(event: Any) -> str | None:
    """Say what keeps something from being an event; `None` if it is one.

    Example:
        >>> problem_of({"kind": "published"})
        "'published' must have ['version']"
    """
    if not isinstance(event, dict):
        return f"an event must be a dictionary, got {type(event).__name__}"
    found = cast("dict[str, Any]", event)
    required = REQUIRED.get(found.get("kind", ""))
    if required is None:
        return f"unknown kind {found.get('kind')!r}"
    if required <= found.keys():
        return None
    return f"{found['kind']!r} must have {sorted(required - found.keys())}"
