"""Generation: continuous batching over a cache of latents, several weight versions at once."""

from ._engine import Engine, EngineStats, Generation

__all__ = ["Engine", "EngineStats", "Generation"]
