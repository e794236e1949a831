"""The LongCat-Flash model family in PyTorch: read it, train it, run it."""

from ._chat import ChatFormat, Piece, parse_turn, render_turn
from ._config import LongcatConfig
from ._experts import BiasController
from ._induction import init_induction
from ._model import CausalLMOutput, LongcatForCausalLM, LongcatModel
from ._ngram import neighbours
from ._packed import pack
from ._presets import count_active_parameters, count_parameters, get_preset
from ._rotary import YarnScaling
from ._tokenizer import load_tokenizer, space_twins, train_tokenizer
from .engine import Engine, EngineFullError, EngineStats, Generation, Token

__all__ = [
    "BiasController",
    "CausalLMOutput",
    "ChatFormat",
    "Engine",
    "EngineFullError",
    "EngineStats",
    "Generation",
    "LongcatConfig",
    "LongcatForCausalLM",
    "LongcatModel",
    "Piece",
    "Token",
    "YarnScaling",
    "count_active_parameters",
    "count_parameters",
    "get_preset",
    "init_induction",
    "load_tokenizer",
    "neighbours",
    "pack",
    "parse_turn",
    "render_turn",
    "space_twins",
    "train_tokenizer",
]
