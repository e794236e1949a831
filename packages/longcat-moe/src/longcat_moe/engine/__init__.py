"""Generation: continuous batching over a cache of latents, several weight versions at once."""

from ._engine import Engine
from ._prefill import PrefillProcess
from ._request import EngineFullError, EngineStats, Generation, Token

__all__ = ["Engine", "EngineFullError", "EngineStats", "Generation", "PrefillProcess", "Token"]
