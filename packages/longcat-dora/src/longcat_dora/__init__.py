"""Asynchronous RL that loses nothing, mixes nothing, and can prove it."""

from ._check import Report, check
from ._log import EventLog, read_events, read_trajectories
from ._runtime import LocalRuntime, Progress, RunConfig
from ._scheduler import Scheduler, SchedulerConfig, Start
from ._session import Session
from ._simulate import Plan, Simulation, plan, simulate
from ._types import (
    EndReason,
    Engine,
    LongcatDoraError,
    Policy,
    Renderer,
    Rollout,
    Sampled,
    Segment,
    Task,
    Trainer,
    Trajectory,
    Worker,
)
from ._why import why

__all__ = [
    "EndReason", "Engine", "EventLog", "LocalRuntime", "LongcatDoraError", "Plan", "Policy", "Progress",
    "Renderer", "Report", "Rollout", "RunConfig", "Sampled", "Scheduler", "SchedulerConfig",
    "Segment", "Session", "Simulation", "Start", "Task", "Trainer", "Trajectory", "Worker", "check",
    "plan", "read_events", "read_trajectories", "simulate", "why",
]  # fmt: skip
