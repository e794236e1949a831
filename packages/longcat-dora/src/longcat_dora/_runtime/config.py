"""What a run is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from longcat_dora._books.config import SchedulerConfig
from longcat_dora._log.log import SEGMENT_BYTES
from longcat_dora._types.numbers import real, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run."""

    folder: Path | str
    """Of the log, the checkpoints and `metrics.jsonl`; made a `Path`."""
    max_steps: int
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    num_controllers: int = 1
    save_every: int = 10
    """Steps between checkpoints; a crash repeats the steps since the last one."""
    keep_checkpoints: int = 2
    """The newest ones; older ones are removed."""
    sync_commits: bool = True
    """Wait at each step until what is trained on is on the disk, so that it survives a power
    cut."""
    segment_bytes: int = SEGMENT_BYTES
    """Of a part of the log, after which another one is begun; whole parts can be archived."""
    rollout_deadline_s: float = 120.0
    kill_after_s: float = 5.0
    """Seconds past a rollout's deadline after which its controller, which did not end it, is killed
    and replaced."""
    load_deadline_s: float = 600.0
    """Until a controller's engine must have taken a version."""
    start_deadline_s: float = 1800.0
    """Until a controller must have built its worker."""
    stall_deadline_s: float = 300.0
    """With nothing under way for this long, the run ends and says who waited for what."""
    max_controller_restarts: int = 10
    """Between two steps."""
    max_failures_in_a_row: int = 100
    """Rollouts that end without a result with none between them that has one; then the run ends and
    shows the last error."""
    max_groups_without_signal: int = 1000
    """Complete groups in a row of which all rewards are equal; then the run ends and says so."""
    evaluate_every: int = 0
    """Steps between two evaluations, if `evaluate` is given; at the end alone when 0."""
    max_seconds: float = float("inf")
    """Stop after the step that passes this."""
    tasks_go_on: bool = False
    """Whether a continued run is given other tasks than before (a curriculum draws them), so that
    none of them is passed over as admitted already."""
    seed: int = 0
    """Of what engines sample; each attempt has its own, made from this and its seat."""

    @property
    def path(self) -> Path:
        """The folder, known to be a `Path`."""
        return cast("Path", self.folder)

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"folder must be a path, got {self.folder!r}")
        if not self.folder:  # a variable that was not set; Path("") would be the working directory
            raise ValueError("folder must be a path, got ''")
        scheduler = cast("object", self.scheduler)
        if not isinstance(scheduler, SchedulerConfig):
            raise ValueError(f"scheduler must be a SchedulerConfig, got {self.scheduler!r}")
        object.__setattr__(self, "folder", Path(self.folder).expanduser())
        for name in ("sync_commits", "tasks_go_on"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {value!r}")
        for name, least in _WHOLE.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least=least))
        for name in (*_POSITIVE, "kill_after_s"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kill_after_s < 0:
            raise ValueError(f"kill_after_s must not be negative, got {self.kill_after_s}")


_WHOLE: dict[str, int | None] = {
    "max_steps": 1, "num_controllers": 1, "save_every": 1, "keep_checkpoints": 1,
    "segment_bytes": 1, "max_failures_in_a_row": 1, "max_groups_without_signal": 1,
    "max_controller_restarts": 0, "evaluate_every": 0, "seed": None,
}  # fmt: skip
"""Field to the least it may be."""
_POSITIVE = (
    "rollout_deadline_s", "load_deadline_s", "start_deadline_s", "stall_deadline_s", "max_seconds",
)  # fmt: skip
