"""Log-probabilities of wanted tokens, computing and holding as little else as the model allows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ._linear import linear_log_probs

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`predict(ids_BT, real_BT, wanted_BT, target_N)`: log-probs (N,) of the targets where wanted."""


def from_logits(model: nn.Module, accelerator: Accelerator) -> Predict:
    """Ask the model for logits; only for the wanted ones if its call takes `logits_mask`."""
    takes_mask = (
        "logits_mask" in inspect.signature(accelerator.unwrap_model(model).forward).parameters
    )

    def predict(ids_BT: Tensor, real_BT: Tensor, wanted_BT: Tensor, target_N: Tensor) -> Tensor:
        with accelerator.autocast():
            if takes_mask:
                logits = model(ids_BT, attention_mask=real_BT, logits_mask=wanted_BT).logits
            else:
                logits = model(ids_BT, attention_mask=real_BT).logits[wanted_BT]
        return -nn.functional.cross_entropy(logits.float(), target_N, reduction="none")

    return predict


def from_hidden_states(model: nn.Module, accelerator: Accelerator) -> Predict:
    """Apply the output matrix ourselves, in chunks.

    Raises:
        ValueError: The model's logits are more than its last states times a matrix, or there are
            several processes.
    """
    if accelerator.num_processes > 1:
        raise ValueError("chunked_log_probs works in one process, got several")
    plain = cast("Any", accelerator.unwrap_model(model))
    head = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(
            "chunked_log_probs needs a model whose get_output_embeddings() is a Linear without "
            f"bias, got {type(head).__name__}"
        )

    def hidden(ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        out = plain.base_model(ids_BT, attention_mask=real_BT)
        return out if isinstance(out, Tensor) else out.last_hidden_state

    ids = torch.arange(3, device=head.weight.device)[None]
    with torch.no_grad():
        logits = plain(ids, attention_mask=torch.ones_like(ids)).logits
        gap = (logits - head(hidden(ids, torch.ones_like(ids)))).abs().max()
    if gap > 1e-3 * (1 + logits.abs().max()):
        raise ValueError(
            "chunked_log_probs needs logits that are the last states times the output matrix; "
            f"this model changes them further, by up to {gap:.2g}"
        )

    def predict(ids_BT: Tensor, real_BT: Tensor, wanted_BT: Tensor, target_N: Tensor) -> Tensor:
        with accelerator.autocast():
            states_BTD = hidden(ids_BT, real_BT)
        return linear_log_probs(states_BTD[wanted_BT].to(head.weight.dtype), head.weight, target_N)

    return predict
