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

from ._engine import TransformersEngine
from ._evaluate import Attempted, evaluate
from ._renderer import TransformersRenderer
from ._worker import chat_worker, score_file, world_worker

__all__ = [
    "Attempted",
    "TransformersEngine",
    "TransformersRenderer",
    "chat_worker",
    "evaluate",
    "score_file",
    "world_worker",
]
