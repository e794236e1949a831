"""What a run says of itself as it goes.

`status.json` for `why`, a line of `metrics.jsonl` for each step.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat_dora._books.manager import RolloutManager
from longcat_dora._books.why import STATUS
from longcat_dora._types import Trajectory

_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """After each step."""

    step: int
    metrics: dict[str, Any]
    batch: list[Trajectory]


class Status:
    """Writes down who waits for what: twice a second at most, or soon after that has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._phase, self._since = "", 0.0
        self._written_at = float("-inf")

    def tell(
        self, phase: str, *, version: int, explain: Callable[[], str], is_over: bool = False
    ) -> None:
        """Replace the status, if it is time to."""
        now = time.monotonic()
        interval = _EVERY_S if phase == self._phase else _EVERY_S / 10
        if now - self._written_at < interval and not is_over:
            return
        if phase != self._phase:
            self._phase, self._since = phase, now
        self._written_at = now
        record = {
            "pid": os.getpid(), "at": time.time(), "version": version, "why": explain(),
            "for_s": round(now - self._since, 1), "is_over": is_over,
        }  # fmt: skip
        part = self.folder / f".{STATUS}.part"
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
        part.replace(self.folder / STATUS)


class Metrics:
    """What is counted between two steps."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "metrics.jsonl"
        self.started_at = self.waited_from = time.monotonic()
        self.idle_s = 0.0
        self.num_trained = 0
        self._sampled_reward = 0.0
        self.loads: deque[float] = deque(maxlen=10_000)
        """Share of `max_running` that was sampled, whenever the loop looked."""

    def begin(self) -> None:
        """The run begins now."""
        self.started_at = self.waited_from = time.monotonic()

    def begin_step(self) -> None:
        """The trainer has waited until now."""
        self.idle_s += time.monotonic() - self.waited_from

    def end_step(self) -> None:
        """The trainer waits from now on."""
        self.waited_from = time.monotonic()

    def record(
        self,
        manager: RolloutManager,
        batch: Sequence[Trajectory],
        metrics: Mapping[str, Any],
        *,
        at: int,
        num_restarts: int,
    ) -> dict[str, Any]:
        """Return what is to be said of the step that was taken at version `at`."""
        elapsed_s = self.waited_from - self.started_at
        self.num_trained += len(batch)
        num_truncated, num_splits = manager.num_truncated, manager.num_splits
        rewards, loads = manager.take_rewards(), self.loads
        if rewards:  # a step may end before another group does: then the last that is known stands
            self._sampled_reward = sum(rewards) / len(rewards)
        record: dict[str, Any] = {
            "step": at + 1,
            "elapsed_s": round(elapsed_s, 3),
            **metrics,
            "trajectories": self.num_trained,
            "trajectories_per_s": self.num_trained / elapsed_s,
            "staleness": dict(sorted(Counter(at - t.versions[-1] for t in batch).items())),
            "live_versions": len(manager.scheduler.live_versions),
            "sampled_reward": self._sampled_reward,
            "load_ratio": sum(loads) / max(len(loads), 1),
            "trainer_idle_share": self.idle_s / elapsed_s,
            "oldest_s": round(manager.age_of_oldest_s(), 3),
            "filtered_groups": manager.num_filtered,
            "truncated": num_truncated,
            "edited_histories": num_splits,
            "segments": sum(len(t.segments) for t in batch) / max(len(batch), 1),
            "controller_restarts": num_restarts,
            "domains": manager.domains(batch),
        }
        loads.clear()
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
