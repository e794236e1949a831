"""Make a large model from a small one's settings or weights.

Source: LongCat-Flash report 2.3.2 (variance compensation), 3.1.1 (width transfer, table 1), 3.1.2
(growth).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from ._config import LongcatConfig
from ._model import LongcatForCausalLM


def variance_compensation(config: LongcatConfig) -> float:
    """Return the `routed_scaling_factor` under which fine experts speak as loud as one dense FFN.

    One FFN cut into m experts loses a factor m of variance to the gates and another to the narrower
    middle; the sum is multiplied by m (equation 8). Released models have m = 12288 / 2048 = 6.
    """
    return config.ffn_hidden_size / config.expert_ffn_hidden_size


@torch.no_grad()
def init_from_proxy(model: LongcatForCausalLM, *, proxy_width: int) -> LongcatForCausalLM:
    """Scale fresh weights as if `initializer_range` had been tuned at `proxy_width`.

    With s = hidden_size / proxy_width, hidden and output matrices get 1 / s of the variance;
    embeddings and norms stay.
    """
    scale = _width_factor(model.config, proxy_width) ** -0.5
    for name, weight in model.named_parameters():
        if _is_matrix(name, weight):
            weight *= scale
    return model


def param_groups(model: LongcatForCausalLM, *, lr: float, proxy_width: int) -> list[dict[str, Any]]:
    """Return optimiser groups for a learning rate that was tuned at `proxy_width`.

    Hidden and output matrices get lr / s with s = hidden_size / proxy_width; embeddings and norms
    lr. Batch, depth and sparsity are to be the proxy's.
    """
    factor = _width_factor(model.config, proxy_width)
    named = list(model.named_parameters())
    return [
        {"params": [w for n, w in named if _is_matrix(n, w)], "lr": lr / factor},
        {"params": [w for n, w in named if not _is_matrix(n, w)], "lr": lr},
    ]


@torch.no_grad()
def stack_layers(model: LongcatForCausalLM) -> LongcatForCausalLM:
    """Return a model of twice the layers, the small one's put upon themselves.

    Pre-training goes on from there: the loss first rises, and later falls below that of a model of
    this size from nothing.
    """
    small = model.config
    sparse = small.sparse_attention
    if sparse is not None:
        sparse = dataclasses.replace(sparse, layer_type=sparse.layer_type * 2)
    config = dataclasses.replace(small, num_layers=2 * small.num_layers, sparse_attention=sparse)
    large = LongcatForCausalLM(config)
    state = dict(model.state_dict())
    for key, value in model.state_dict().items():
        if key.startswith("model.layers."):
            _, _, place, rest = key.split(".", 3)
            state[f"model.layers.{int(place) + small.num_layers}.{rest}"] = value
    large.load_state_dict(state, strict=config.norm != "span")  # its first block has one norm more
    return large


@torch.no_grad()
def add_prediction_head(model: LongcatForCausalLM) -> LongcatForCausalLM:
    """Return a model with a fresh multi-token prediction head, and this one's weights.

    Train the head alone by `mtp_loss` on what `model.model` says (`model.model.mtp.parameters()`),
    save it, and an engine may speculate with it. The head's embeddings begin as the model's.

    Raises:
        ValueError: It has a head already.
    """
    if model.model.mtp is not None:
        raise ValueError("the model must have no prediction head, and has one")
    config = dataclasses.replace(model.config, num_nextn_predict_layers=1)
    first = model.lm_head.weight
    large = LongcatForCausalLM(config).to(device=first.device, dtype=first.dtype)
    head = {name: weight for name, weight in large.state_dict().items() if ".mtp." in name}
    head["model.mtp.embed_tokens.weight"] = model.model.embed_tokens.weight.detach().clone()
    large.load_state_dict({**model.state_dict(), **head}, assign=True)
    return large


def _width_factor(config: LongcatConfig, proxy_width: int) -> float:
    if proxy_width < 1:
        raise ValueError(f"proxy_width must be at least 1, got {proxy_width}")
    return config.hidden_size / proxy_width


def _is_matrix(name: str, weight: nn.Parameter) -> bool:
    return weight.dim() > 1 and "embed" not in name
