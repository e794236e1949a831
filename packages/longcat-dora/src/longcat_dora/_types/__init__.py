"""The vocabulary: tasks, trajectories, ends, and what a user's code meets."""

from .errors import EndReason, Invalid, LongcatDoraError, Mask
from .protocols import (
    Engine,
    InterruptibleEngine,
    Outcome,
    Policy,
    Renderer,
    Rollout,
    Sampled,
    Trainer,
    Weights,
    Worker,
    wants_arrays,
)
from .trajectory import Finished, Payload, Segment, Task, Trajectory

__all__ = [
    "EndReason",
    "Engine",
    "Finished",
    "InterruptibleEngine",
    "Invalid",
    "LongcatDoraError",
    "Mask",
    "Outcome",
    "Payload",
    "Policy",
    "Renderer",
    "Rollout",
    "Sampled",
    "Segment",
    "Task",
    "Trainer",
    "Trajectory",
    "Weights",
    "Worker",
    "wants_arrays",
]
