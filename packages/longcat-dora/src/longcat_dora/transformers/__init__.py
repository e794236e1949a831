"""Any Hugging Face causal LM as an engine, in this process.

`pip install 'longcat-dora[transformers]'`.

    engine = TransformersEngine("HuggingFaceTB/SmolLM2-135M-Instruct")
    Worker(engine=engine, renderer=TransformersRenderer(engine.tokenizer), rollout=...)

- Several versions are live at once: weights lie where the trainer's bytes lie, adapters beside one
  base.
- Conversations join and leave the batch between two tokens; what was said stays in the cache from
  turn to turn.
- Log-probs are those of the distribution that was sampled from, at its temperature (at 0: of 1).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._engine import TransformersEngine
    from ._evaluate import Attempted, evaluate
    from ._file import score_file
    from ._renderer import TransformersRenderer
    from ._worker import chat_worker, world_worker

_PLACES = {
    "Attempted": "_evaluate", "TransformersEngine": "_engine", "TransformersRenderer": "_renderer",
    "chat_worker": "_worker", "evaluate": "_evaluate", "score_file": "_file",
    "world_worker": "_worker",
}  # fmt: skip
"""Imported when they are wanted: torch and transformers take ten seconds on a slow machine."""

__all__ = [
    "Attempted",
    "TransformersEngine",
    "TransformersRenderer",
    "chat_worker",
    "evaluate",
    "score_file",
    "world_worker",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
