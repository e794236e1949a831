"""A run as a picture: its log in the trace format that Perfetto and `chrome://tracing` open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
_ROLLOUTS, _TRAINER = 1, 2


@dataclass(slots=True)
class _Picture:
    trace: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    lanes: list[str | None] = field(default_factory=list[str | None])
    """Who is drawn in each row of rollouts now."""
    begun: dict[str, tuple[int, float, int, str]] = field(
        default_factory=dict[str, tuple[int, float, int, str]]
    )
    """Trajectory to row, begin, version and group."""
    start: float = 0.0
    first_wall: float | None = None
    now: float = 0.0
    leased_at: float | None = None

    def read(self, event: Event) -> None:
        if event["kind"] == "opened" and "wall" in event:
            self.first_wall = self.first_wall or event["wall"]
            self.start = event["wall"] - self.first_wall - event.get("at", 0.0)
        self.now = max(self.now, self.start + event.get("at", 0.0))
        handler = getattr(self, f"_{event['kind']}", None)
        if handler is not None:
            handler(event)

    def _started(self, event: Event) -> None:
        free = next((i for i, name in enumerate(self.lanes) if name is None), len(self.lanes))
        if free == len(self.lanes):
            self.lanes.append(None)
        name = event["trajectory"]
        self.lanes[free] = name
        self.begun[name] = (free, self.now, event["version"], event["group"])

    def _produced(self, event: Event) -> None:
        self._end(event["trajectory"], reward=event.get("reward"), tokens=event.get("tokens"))

    def _ended(self, event: Event) -> None:
        self._end(event["trajectory"], reason=event["reason"])

    def _end(self, name: str, **more: Any) -> None:
        if name not in self.begun:
            return
        lane, begin, version, group = self.begun.pop(name)
        self.lanes[lane] = None
        reason = more.get("reason")
        title = f"v{version}" if reason is None else f"v{version} {reason}"
        self._slice(title, _ROLLOUTS, lane, begin, {"trajectory": name, "group": group, **more})

    def _leased(self, event: Event) -> None:
        self.leased_at = self.now
        del event

    def _committed(self, event: Event) -> None:
        if self.leased_at is not None:
            more = {"trajectories": len(event["trajectories"])}
            self._slice(f"step {event['version'] + 1}", _TRAINER, 0, self.leased_at, more)
            self.leased_at = None
        count = {"name": "running", "ph": "C", "pid": _ROLLOUTS, "ts": self.now * 1e6}
        self.trace.append({**count, "args": {"running": len(self.begun)}})

    def _slice(self, name: str, pid: int, tid: int, begin: float, more: dict[str, Any]) -> None:
        self.trace.append({
            "name": name, "ph": "X", "pid": pid, "tid": tid, "ts": round(begin * 1e6),
            "dur": round((self.now - begin) * 1e6), "args": more,
        })  # fmt: skip


def timeline(events: Iterable[Event]) -> dict[str, Any]:
    """Return a trace of rollouts and steps, ready for `json.dump`.

    It has a row for each rollout that runs at once.

    Example:
        >>> member = {"trajectory": "t", "version": 0}
        >>> events = [
        ...     {"kind": "started", "group": "g", "at": 1.0, **member},
        ...     {"kind": "produced", "at": 3.0, **member},
        ... ]
        >>> timeline(events)["traceEvents"][-1]["dur"]
        2000000
    """
    picture = _Picture()
    for event in events:
        picture.read(event)
    names = [(_ROLLOUTS, "rollouts, by the version that samples"), (_TRAINER, "trainer")]
    head = [
        {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": name}}
        for pid, name in names
    ]
    return {"traceEvents": [*head, *picture.trace], "displayTimeUnit": "ms"}
