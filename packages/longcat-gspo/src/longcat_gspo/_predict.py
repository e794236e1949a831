"""Log-probabilities of wanted tokens, computing and holding as little else as the model allows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ._linear import CHUNK_BYTES, linear_log_probs_and_entropy
from ._samples import Rows

Predict = Callable[[Rows], tuple[Tensor, Tensor]]
"""Log-probs of the targets, (T,), and the entropy where they stand, (T,), without a gradient."""


def from_logits(model: nn.Module, accelerator: Accelerator) -> Predict:
    """Ask the model for logits; only for the wanted ones if its call takes `logits_mask`."""
    takes_mask = (
        "logits_mask" in inspect.signature(accelerator.unwrap_model(model).forward).parameters
    )

    def predict(rows: Rows) -> tuple[Tensor, Tensor]:
        with accelerator.autocast():
            if takes_mask:
                out = model(rows.ids_BL, attention_mask=rows.real_BL, logits_mask=rows.wanted_BL)
                logits_TV = out.logits
            else:
                out = model(rows.ids_BL, attention_mask=rows.real_BL)
                logits_TV = out.logits[rows.wanted_BL]
        logits_TV = logits_TV.to(torch.promote_types(logits_TV.dtype, torch.float32))
        log_probs_TV = logits_TV.log_softmax(-1)
        picked_T = log_probs_TV.gather(1, rows.target_T[:, None])[:, 0]
        return picked_T, _entropy(log_probs_TV.detach())

    return predict


def _entropy(log_probs_TV: Tensor) -> Tensor:
    """In nats, (T,); a chunk of tokens at a time."""
    chunk = max(1, CHUNK_BYTES // (4 * log_probs_TV.shape[1]))
    return torch.cat([-(part.exp() * part).sum(-1) for part in log_probs_TV.split(chunk)])


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

    def predict(rows: Rows) -> tuple[Tensor, Tensor]:
        with accelerator.autocast():
            states_BLD = hidden(rows.ids_BL, rows.real_BL)
        states_TD = states_BLD[rows.wanted_BL].to(head.weight.dtype)
        return linear_log_probs_and_entropy(states_TD, head.weight, rows.target_T)

    return predict
