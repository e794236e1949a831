"""Think K times in parallel, then once about the K answers."""

from ._openai import openai_complete, strip_thoughts
from ._think import Complete, HeavyAnswer, HeavyConfig, summary_prompt, think

__all__ = [
    "Complete", "HeavyAnswer", "HeavyConfig", "openai_complete", "strip_thoughts",
    "summary_prompt", "think",
]  # fmt: skip
