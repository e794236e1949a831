"""Asynchronous RL that loses nothing, mixes nothing, and can prove it."""

from ._balance import LoadBalancer, assign_replicas, plan_moves
from ._check import Report, check
from ._controller import RolloutController
from ._log import EventLog, read_events, read_trajectories
from ._manager import RolloutManager
from ._payloads import PayloadFile, PayloadReader
from ._queue import SampleQueue
from ._replay import ReplayedStep, replay
from ._replicas import Completion, Replica, ReplicaLostError, ReplicatedEngine
from ._runtime import LocalRuntime, Progress, RunConfig, Runtime
from ._scheduler import AtBound, Scheduler, SchedulerConfig, Start
from ._session import Session
from ._simulate import Plan, Simulation, plan, simulate
from ._timeline import timeline
from ._types import (
    EndReason,
    Engine,
    Finished,
    InterruptibleEngine,
    LongcatDoraError,
    Mask,
    Payload,
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
    "AtBound",
    "Completion",
    "EndReason",
    "Engine",
    "EventLog",
    "Finished",
    "InterruptibleEngine",
    "LoadBalancer",
    "LocalRuntime",
    "LongcatDoraError",
    "Mask",
    "Payload",
    "PayloadFile",
    "PayloadReader",
    "Plan",
    "Policy",
    "Progress",
    "Renderer",
    "ReplayedStep",
    "Replica",
    "ReplicaLostError",
    "ReplicatedEngine",
    "Report",
    "Rollout",
    "RolloutController",
    "RolloutManager",
    "RunConfig",
    "Runtime",
    "SampleQueue",
    "Sampled",
    "Scheduler",
    "SchedulerConfig",
    "Segment",
    "Session",
    "Simulation",
    "Start",
    "Task",
    "Trainer",
    "Trajectory",
    "Worker",
    "assign_replicas",
    "check",
    "plan",
    "plan_moves",
    "read_events",
    "read_trajectories",
    "replay",
    "simulate",
    "timeline",
    "why",
]
