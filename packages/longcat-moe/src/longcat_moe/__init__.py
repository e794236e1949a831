"""The LongCat-Flash model family in PyTorch: read it, train it, run it."""

from ._config import LongcatConfig
from ._experts import BiasController
from ._model import CausalLMOutput, LongcatForCausalLM, LongcatModel, count_parameters

__all__ = [
    "BiasController",
    "CausalLMOutput",
    "LongcatConfig",
    "LongcatForCausalLM",
    "LongcatModel",
    "count_parameters",
]
