"""What a `config.json` says, key by key: what shapes the model, what does not, and what is refused.

A key that is not known here may change the computation, so that it is refused: a model that
computes something else than it was trained for is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._rotary import YarnScaling
from ._sparse import SparseAttention

MODEL_TYPES = {
    "longcat_flash": "LongcatFlashForCausalLM",
    "longcat_flash_ngram": "LongcatFlashNgramForCausalLM",
}
"""Model type to architecture; the second is the first with n-gram embeddings."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "attention_dropout": (0, None),
    "attention_method": ("MLA", None),
    "hidden_act": ("silu", None),
    "is_encoder_decoder": (False, None),
    "mla_scale_q_lora": (True, None),
    "mla_scale_kv_lora": (True, None),
    "norm_topk_prob": (False, None),
    "partial_rotary_factor": (1, None),
    "router_bias": (False, None),
    "router_dtype": ("float32", None),
    "tie_word_embeddings": (False, None),
    "topk_method": (None,),
    "zero_expert_type": ("identity", None),
}
"""Keys that would change the computation, with the only values that this implementation
computes."""

_ALSO = {
    "num_local_experts": "n_routed_experts",
    "num_experts_per_tok": "moe_topk",
    "intermediate_size": "ffn_hidden_size",
    "moe_intermediate_size": "expert_ffn_hidden_size",
}
"""Second names, as transformers has them."""

_IGNORED = {
    "architectures", "auto_map", "chunk_size_feed_forward", "do_sample",
    "dtype",
    "head_dim", "id2label", "label2id", "max_length", "model_type",
    "original_max_position_embeddings",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "params_dtype",
    "problem_type", "pruned_heads", "quantization_config", "return_dict", "rope_parameters",
    "rope_scaling", "streaming_sparse_attention", "temperature", "top_k", "top_p", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
"""Keys that change no forward pass, or are read by name below."""

_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


KNOWN = {*_ONLY, *_ALSO, *_IGNORED, "num_hidden_layers", "num_key_value_heads", "qk_head_dim"}
"""Keys that have a meaning here, besides the fields of `LongcatConfig`."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file.

    Raises:
        ValueError: It is not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values


def read_fields(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a `LongcatConfig`, of whose `names` the file may hold any.

    Raises:
        ValueError: A key asks for what is not implemented, contradicts another, or is not known.
    """
    kind = values.get("model_type", "longcat_flash")
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise ValueError(
            f"config.json: model_type must be one of {', '.join(MODEL_TYPES)}, got {kind!r}"
        )
    for key, allowed in _ONLY.items():
        if key in values and values[key] not in allowed:
            raise ValueError(f"config.json: {key} must be {allowed[0]!r}, got {values[key]!r}")
    nested = {"rope_scaling", "sparse_attention"}
    known = {k: v for k, v in values.items() if k in names and k not in nested and v is not None}
    _read_second_names(values, known)
    _check_rest(values, known, names)
    _check_quantization(values.get("quantization_config"))
    _read_rope(values, known)
    sparse = values.get("streaming_sparse_attention")
    if sparse is not None:
        known["sparse_attention"] = SparseAttention.from_dict(sparse)
    return known


def _read_second_names(values: dict[str, Any], known: dict[str, Any]) -> None:
    for also, name in _ALSO.items():
        value = values.get(also)
        if value is not None and known.setdefault(name, value) != value:
            raise ValueError(f"config.json: {also}={value!r} must be {name}={known[name]!r}")
    num = values.get("num_hidden_layers")
    if num is None:
        return
    if type(num) is not int:
        raise ValueError(f"config.json: num_hidden_layers must be a whole number, got {num!r}")
    layers = known.setdefault("num_layers", num // 2)
    if type(layers) is not int:
        return  # said of the field itself
    if num not in (layers, 2 * layers):
        raise ValueError(
            f"config.json: num_hidden_layers must be num_layers={layers!r} or twice that, got {num}"
        )


def _check_rest(values: dict[str, Any], known: dict[str, Any], names: Sequence[str]) -> None:
    for key, wanted in (
        ("num_key_value_heads", lambda: known.get("num_attention_heads", 64)),
        ("head_dim", lambda: known.get("qk_rope_head_dim", 64)),  # how transformers turns positions
        ("qk_head_dim", lambda: known["qk_nope_head_dim"] + known["qk_rope_head_dim"]),
    ):
        try:
            is_wrong = values.get(key) is not None and values[key] != wanted()
        except (KeyError, TypeError):
            is_wrong = False  # said of the field itself
        if is_wrong:
            raise ValueError(f"config.json: {key} must be {wanted()}, got {values[key]!r}")
    fine = {*names, *KNOWN} - {"sparse_attention"}
    unknown = [
        key for key, value in values.items()
        if key not in fine and not key.startswith("_") and value is not None
    ]  # fmt: skip
    if unknown:
        raise ValueError(
            "config.json: every key must be known, since one may change the model; not known: "
            f"{', '.join(sorted(unknown))}"
        )


def _check_quantization(values: Any) -> None:
    """Accept FP8 in blocks, which is read; nothing else."""
    if values is None:
        return
    wanted = {"quant_method": ("fp8",), "fmt": ("e4m3", None), "weight_block_size": ([128, 128],)}
    is_known = isinstance(values, dict) and all(
        values.get(key) in allowed for key, allowed in wanted.items()
    )
    if not is_known:
        raise ValueError(
            "config.json: quantization_config must be quant_method 'fp8', fmt 'e4m3', "
            f"weight_block_size [128, 128], got {values!r}"
        )


def _read_rope(values: dict[str, Any], known: dict[str, Any]) -> None:
    """Read how positions turn, with transformers' precedence.

    transformers 5 keeps all of it in `rope_parameters`; older files have `rope_scaling`, which
    comes first.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"config.json: rope_parameters must be an object, got {rope!r}")
    rope = dict(rope)
    unknown = sorted(set(rope) - _ROPE - set(YarnScaling.__dataclass_fields__))
    if unknown or rope.get("partial_rotary_factor") not in (None, 1):
        raise ValueError(f"config.json: rope_parameters must be those of YaRN, got {rope!r}")
    if rope.get("rope_theta") is not None:
        theta = known.setdefault("rope_theta", rope["rope_theta"])
        if theta != rope["rope_theta"]:
            raise ValueError(
                f"config.json: rope_theta={theta!r} must be that of rope_parameters, "
                f"{rope['rope_theta']!r}"
            )
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise ValueError(f"config.json: rope_type must be 'default' or 'yarn', got {kind!r}")
    unused = [name for name in rope if name not in _ROPE and rope[name] is not None]
    if kind == "default" and unused:
        raise ValueError(
            f"config.json: rope_type must be 'yarn' where {', '.join(unused)} is told, got {rope!r}"
        )
    if kind == "yarn":
        old = values.get("original_max_position_embeddings")
        if old is not None:
            rope["original_max_position_embeddings"] = old
        new = known.get("max_position_embeddings", 131072)
        known["rope_scaling"] = YarnScaling.from_dict(rope, max_position_embeddings=new)
