"""Asynchronous RL that loses nothing, mixes nothing, and can prove it."""

from ._books.balance import LoadBalancer, assign_replicas, plan_moves
from ._books.config import AtBound, SchedulerConfig
from ._books.manager import RolloutManager
from ._books.queue import SampleQueue
from ._books.scheduler import Scheduler, Start
from ._books.simulate import Plan, Simulation, plan, simulate
from ._books.why import why
from ._log.check import check
from ._log.log import EventLog
from ._log.payloads import PayloadFile, PayloadReader
from ._log.reader import read_events, read_trajectories
from ._log.replay import ReplayedStep, replay
from ._log.report import Report
from ._log.timeline import timeline
from ._rollout.controller import RolloutController
from ._rollout.session import Session
from ._runtime.config import RunConfig
from ._runtime.local import LocalRuntime
from ._runtime.replicas import Completion, Replica, ReplicaLostError, ReplicatedEngine
from ._runtime.runtime import Runtime
from ._runtime.status import Progress
from ._types import (
    EndReason,
    Engine,
    Finished,
    InterruptibleEngine,
    Invalid,
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

__all__ = [
    "AtBound",
    "Completion",
    "EndReason",
    "Engine",
    "EventLog",
    "Finished",
    "InterruptibleEngine",
    "Invalid",
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
