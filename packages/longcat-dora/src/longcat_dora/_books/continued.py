"""What of an earlier run can be gone on with: what is damaged is found, and sampled anew."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from longcat_dora._log import events as ev
from longcat_dora._log.events import Event
from longcat_dora._log.payloads import PayloadReader
from longcat_dora._types import EndReason, Finished, LongcatDoraError, Payload

from .config import SchedulerConfig
from .recover import Recovered, RecoveredGroup, end_of
from .tasks import decode_task


def opened_event(config: SchedulerConfig, *, torn_bytes: int) -> ev.Opened:
    """Return what a process writes first."""
    event: ev.Opened = {
        "kind": "opened",
        "hard_staleness": config.hard_staleness,
        "soft_staleness": config.soft_staleness,
        "group_size": config.group_size,
        "at_bound": config.at_bound,
        "max_running": config.max_running,
        "wall": time.time(),
    }
    if torn_bytes:
        event["torn_bytes"] = torn_bytes
    return event


@dataclass(slots=True)
class Continued:
    """What goes on."""

    groups: list[RecoveredGroup] = field(default_factory=list[RecoveredGroup])
    samples: list[tuple[Finished, Payload]] = field(default_factory=list[tuple[Finished, Payload]])
    """What is finished, and waits to be trained on."""
    events: list[Event] = field(default_factory=list[Event])
    """That lead to it."""
    notices: list[str] = field(default_factory=list[str])
    """What a person should hear of."""


def go_on(recovered: Recovered, reader: PayloadReader) -> Continued:
    """Read what a log still has: what is damaged ends, and groups without a task are given up."""
    found = Continued(events=list(recovered.events))
    if recovered.version < recovered.oldest_kept:
        found.notices.append(
            f"no checkpoint that the log tells of is here, the oldest is {recovered.oldest_kept}:"
            f" the run goes on from version {recovered.version}, what came since is undone"
        )
    damaged = _find_damage(recovered, reader, found)
    for group in recovered.groups:
        if group.wanted:
            _find_task(group, reader, found)
    lost: set[str] = set()
    for group in recovered.groups:
        if group.wanted and group.task is None:
            _give_up(group, found)
            lost |= group.finished.keys()
        else:
            found.groups.append(group)
    for event in recovered.produced:
        if event["trajectory"] not in damaged | lost:
            found.samples.append((_finished_of(event), _payload_of(event)))
    return found


def _find_damage(recovered: Recovered, reader: PayloadReader, found: Continued) -> set[str]:
    """End trajectories whose bytes are not what was written; they are sampled anew."""
    damaged: dict[str, str] = {}
    for event in recovered.produced:
        try:
            reader.read(_payload_of(event))
        except (LongcatDoraError, KeyError) as error:
            damaged[event["trajectory"]] = str(error)
    for group in recovered.groups:
        for name in [name for name in group.finished if name in damaged]:
            _, member, attempt = group.finished.pop(name)
            group.wanted.append((member, attempt))
            found.events.append(end_of(name, EndReason.DAMAGED, damaged[name][-500:]))
    if damaged:
        name, problem = next(iter(damaged.items()))
        found.notices.append(
            f"{len(damaged)} finished trajectories are damaged and are sampled anew; {name}:"
            f" {problem}"
        )
    return set(damaged)


def _find_task(group: RecoveredGroup, reader: PayloadReader, found: Continued) -> None:
    """Read a group's task where the log has it; else keep the one that came again."""
    if "payload" not in group.admitted:
        return
    try:
        group.task = decode_task(reader.read(Payload(*group.admitted["payload"])))
    except (LongcatDoraError, ValueError, TypeError) as error:
        if group.task is None:
            found.notices.append(f"the task of {group.admitted['group']} is damaged: {error}")


def _give_up(group: RecoveredGroup, found: Continued) -> None:
    """Close a group whose task is not to be had any more."""
    name, task = group.admitted["group"], group.admitted["task"]
    found.notices.append(
        f"group {name} ends: its task {task!r} is not in the log, and did not come again"
    )
    found.events.append({
        "kind": "evicted", "group": name, "reason": str(EndReason.DAMAGED),
        "trajectories": list(group.finished),
    })  # fmt: skip


def _payload_of(event: ev.Produced) -> Payload:
    if "payload" not in event:
        raise KeyError(f"the log does not say where {event['trajectory']} lies")
    return Payload(*event["payload"])


def _finished_of(event: ev.Produced) -> Finished:
    return Finished(
        event["trajectory"], event["version"], event.get("versions", [event["version"]]),
        event.get("domain", ""), event.get("reward", 0.0), event.get("tokens", 0),
        event.get("sampled", 0), event.get("duration_s", 0.0), event.get("truncated", False),
    )  # fmt: skip
