"""What a tensor is for, by its name alone: router, norm, embedding, and so on.

Names as in LongCat, DeepSeek, Qwen, Mixtral, Llama and GPT-2 checkpoints. A tensor whose name says
nothing is `other`, and is merged like a matrix of a layer.
"""

from __future__ import annotations

import re

KINDS = (
    "router_bias", "router", "norm", "embedding", "head", "bias", "expert", "attention", "mlp",
    "other",
)  # fmt: skip
PROTECTED = ("router", "router_bias", "norm", "embedding", "bias")
"""Kinds that no method drops elements of, unless told to: few numbers, each of which matters."""

_PATTERNS = (
    ("router_bias", r"e_score_correction_bias$|(router|gate|classifier)\.(\w+_)?bias$"),
    ("router", r"(^|\.)(router|gate|classifier)(\.classifier|\.wg|\.layer)?\.weight$"),
    ("norm", r"(norm\w*|ln_\w+|layernorm\w*|layer_norm)(\.\d+)?\.(weight|bias)$"),
    ("embedding", r"(^|\.)(\w*embed\w*|wte|wpe|word_embeddings)(\.\w+)*\.weight$"),
    ("head", r"(^|\.)(lm_head|output_head|embed_out|score)\.weight$"),
    ("bias", r"(^|[._])bias$"),
    ("expert", r"(^|\.)(\w*experts?)\."),
    ("attention", r"(^|\.)(\w*attn\w*|attention)\."),
    ("mlp", r"(^|\.)(mlps?|ffn|feed_forward)\."),
)
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


def kind_of(name: str) -> str:
    """Say what the tensor `name` is for: one of `KINDS`.

    Examples:
        >>> kind_of("model.layers.3.mlp.gate.e_score_correction_bias")
        'router_bias'
        >>> kind_of("model.layers.3.mlp.experts.7.gate_proj.weight")
        'expert'
    """
    low = name.lower()
    return next((kind for kind, pattern in _COMPILED if pattern.search(low)), "other")


def layer_of(name: str) -> int | None:
    """Index of the layer that the tensor belongs to, None outside the layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def depth_of(name: str, num_layers: int) -> float:
    """How deep the tensor lies: 0 for the first layer and what is before it, 1 for the last."""
    layer = layer_of(name)
    if layer is None:
        return 0.0 if kind_of(name) == "embedding" else 1.0
    return layer / max(num_layers - 1, 1)
