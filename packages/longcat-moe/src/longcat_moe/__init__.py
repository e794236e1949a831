"""The LongCat-Flash model family in PyTorch: read it, train it, run it."""

from ._chat import ChatFormat, Piece, parse_turn, render_turn
from ._config import LongcatConfig
from ._experts import BiasController, Routing
from ._growth import (
    add_prediction_head,
    init_from_proxy,
    param_groups,
    stack_layers,
    variance_compensation,
)
from ._induction import check_induction, init_induction
from ._losses import (
    balance_gradient_ratio,
    hidden_z_loss,
    load_balance_loss,
    mtp_loss,
    record_routing,
    router_similarity,
)
from ._meta import on_meta
from ._model import CausalLMOutput, LongcatForCausalLM, LongcatModel
from ._ngram import neighbours
from ._packed import pack
from ._presets import count_active_parameters, count_parameters, get_preset
from ._rotary import YarnScaling
from ._sparse import SparseAttention, Window
from ._template import TOKENIZER_FILES, chat_template, load_chat_format, save_tokenizer
from ._tokenizer import load_tokenizer, space_twins, train_tokenizer
from ._zigzag import calibrate, sparsify
from .engine import (
    Engine,
    EngineConfig,
    EngineDeadError,
    EngineFullError,
    EngineStats,
    Generation,
    PrefillProcess,
    RequestFailedError,
    SamplingParams,
    Token,
)

__all__ = [
    "TOKENIZER_FILES",
    "BiasController",
    "CausalLMOutput",
    "ChatFormat",
    "Engine",
    "EngineConfig",
    "EngineDeadError",
    "EngineFullError",
    "EngineStats",
    "Generation",
    "LongcatConfig",
    "LongcatForCausalLM",
    "LongcatModel",
    "Piece",
    "PrefillProcess",
    "RequestFailedError",
    "Routing",
    "SamplingParams",
    "SparseAttention",
    "Token",
    "Window",
    "YarnScaling",
    "add_prediction_head",
    "balance_gradient_ratio",
    "calibrate",
    "chat_template",
    "check_induction",
    "count_active_parameters",
    "count_parameters",
    "get_preset",
    "hidden_z_loss",
    "init_from_proxy",
    "init_induction",
    "load_balance_loss",
    "load_chat_format",
    "load_tokenizer",
    "mtp_loss",
    "neighbours",
    "on_meta",
    "pack",
    "param_groups",
    "parse_turn",
    "record_routing",
    "render_turn",
    "router_similarity",
    "save_tokenizer",
    "space_twins",
    "sparsify",
    "stack_layers",
    "train_tokenizer",
    "variance_compensation",
]
