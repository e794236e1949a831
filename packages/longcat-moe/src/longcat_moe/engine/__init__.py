"""Generation: continuous batching over a cache of latents, several weight versions at once."""

from ._engine import Engine
from ._prefill import PrefillProcess
from ._request import (
    EngineDeadError,
    EngineFullError,
    EngineStats,
    Generation,
    RequestFailedError,
    Scored,
    Token,
)
from ._sampling import Constraint, SamplingParams
from ._settings import EngineConfig

__all__ = [
    "Constraint",
    "Engine",
    "EngineConfig",
    "EngineDeadError",
    "EngineFullError",
    "EngineStats",
    "Generation",
    "PrefillProcess",
    "RequestFailedError",
    "SamplingParams",
    "Scored",
    "Token",
]
