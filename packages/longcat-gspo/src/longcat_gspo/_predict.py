"""Log-probabilities of wanted tokens, computing and holding as little else as the model allows.

They are those of the policy that acted: `softmax(logits / temperature)`, cut to `top_k` and `top_p`
where sampling was.

Dimension key: B sequences, L the longest one's length, T learned tokens, U different places where
one stands (see `Rows`), V vocabulary, D model width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ._adapters import base_model
from ._config import TrainerConfig
from ._limits import longest
from ._linear import CHUNK_BYTES, linear_log_probs, linear_log_probs_and_entropy
from ._samples import Rows
from ._shared import check_sharing, shared_logits
from ._tensors import evaluating, is_low_precision

Autocast = Callable[[], AbstractContextManager[Any]]


class Predict(Protocol):
    """What a model thinks of the targets."""

    def __call__(self, rows: Rows, *, with_entropy: bool = True) -> tuple[Tensor, Tensor]:
        """Return their log-probs, (T,), and the entropy where they stand, without a gradient.

        The entropy is (T,), or empty where nobody wants it: a pass over all logits less.
        """
        ...


def from_logits(model: nn.Module, config: TrainerConfig, autocast: Autocast) -> Predict:
    """Ask the model for logits; for no others than the wanted ones if it can tell them apart.

    Raises:
        ValueError: `packed` or `shared_prefixes`, and the model does not tell sequences apart.
    """
    options = no_cache(model)
    call = _packed_logits if config.packed else _padded_logits
    if config.shared_prefixes:
        check_sharing(model, options)
        call = shared_logits
    if config.packed:
        _check_packing(model)

    limit = longest(model)

    def predict(rows: Rows, *, with_entropy: bool = True) -> tuple[Tensor, Tensor]:
        if limit is not None:  # of a reference or a teacher: the trainer has looked at its own
            limit.refuse(rows.ids_BL.shape[1], "a sample")
        try:
            with autocast():
                logits_UV = call(model, rows, options)
        except IndexError as error:
            most = int(rows.ids_BL.max())
            raise ValueError(f"token_ids up to {most} must be the model's: {error}") from error
        logits_UV = logits_UV.to(torch.promote_types(logits_UV.dtype, torch.float32))
        if config.temperature != 1:
            logits_UV = logits_UV / config.temperature
        if config.is_truncated:
            kept_UV = kept_words(logits_UV.detach(), rows.target_U, config.top_k, config.top_p)
            logits_UV = logits_UV.masked_fill(~kept_UV, -torch.inf)
        log_probs_UV = logits_UV.log_softmax(-1)
        picked_U = log_probs_UV.gather(1, rows.target_U[:, None])[:, 0]
        if not with_entropy:
            return rows.spread(picked_U), picked_U.new_empty(0)
        return rows.spread(picked_U), rows.spread(_entropy(log_probs_UV.detach()))

    return predict


def takes(model: nn.Module, name: str) -> bool:
    """Whether its call has such an argument; an adapter passes it on."""
    return name in inspect.signature(base_model(model).forward).parameters


def no_cache(model: nn.Module) -> dict[str, bool]:
    """Models of transformers keep every key and value of a forward pass unless told otherwise."""
    has_cache = hasattr(getattr(model, "config", None), "use_cache")
    return {"use_cache": False} if has_cache else {}


def _padded_logits(model: nn.Module, rows: Rows, options: dict[str, bool]) -> Tensor:
    """Side by side; where a model can, no logits are computed that nobody wants."""
    if takes(model, "logits_mask"):
        masked = {"attention_mask": rows.real_BL, "logits_mask": rows.wanted_BL}
        return model(rows.ids_BL, **masked).logits
    if not takes(model, "logits_to_keep"):
        return model(rows.ids_BL, attention_mask=rows.real_BL, **options).logits[rows.wanted_BL]
    columns = rows.wanted_BL.any(0).nonzero()[:, 0]
    out = model(rows.ids_BL, attention_mask=rows.real_BL, logits_to_keep=columns, **options)
    return out.logits[rows.wanted_BL[:, columns]]


def _packed_logits(model: nn.Module, rows: Rows, options: dict[str, bool]) -> Tensor:
    """One row without padding; where a position is 0, another sequence begins."""
    real_BL = rows.real_BL.bool()
    positions_BL = torch.arange(real_BL.shape[1], device=real_BL.device).expand_as(real_BL)
    ids, positions = rows.ids_BL[real_BL][None], positions_BL[real_BL][None]
    wanted = rows.wanted_BL[real_BL]
    if not takes(model, "logits_to_keep"):
        return model(ids, position_ids=positions, **options).logits[0][wanted]
    keep = {"logits_to_keep": wanted.nonzero()[:, 0]}
    return model(ids, position_ids=positions, **keep, **options).logits[0]


def _check_packing(model: nn.Module) -> None:
    ids = torch.tensor([[1, 2, 3, 1, 2, 3]], device=next(model.parameters()).device)
    try:
        with torch.no_grad(), evaluating(model):
            logits = model(ids, position_ids=ids - 1, **no_cache(model)).logits[0]
    except TypeError as error:
        raise ValueError(f"packed needs a model that takes position_ids: {error}") from error
    gap = (logits[:3] - logits[3:]).abs().max()
    # Of the largest logit: those of a model that is new are small, and so is what leaks there.
    if gap > (1e-5 if _is_exact(model) else 1e-2) * logits.abs().max():
        raise ValueError(
            "packed needs a model that tells sequences in one row apart by their position_ids; "
            f"this one's logits differ by {gap:.2g} from sequence to sequence"
        )


def _is_exact(model: nn.Module) -> bool:
    """Whether it computes in float32 or better, without TF32."""
    is_cuda = next(model.parameters()).is_cuda
    return not is_low_precision(model) and not (is_cuda and torch.backends.cuda.matmul.allow_tf32)


def kept_words(logits_TV: Tensor, target_T: Tensor, top_k: int, top_p: float) -> Tensor:
    """Say which words truncated sampling chooses from, (T, V), the sampled one among them.

    Top-k first, then the fewest of these whose probability reaches `top_p`.
    """
    kept_TV = torch.ones_like(logits_TV, dtype=torch.bool)
    if 0 < top_k < logits_TV.shape[1]:
        least_T1 = logits_TV.topk(top_k).values[:, -1:]
        kept_TV = logits_TV >= least_T1
    if top_p < 1:
        held_TV = logits_TV.masked_fill(~kept_TV, -torch.inf)
        sorted_TV, order_TV = held_TV.softmax(-1).sort(descending=True)
        before_TV = sorted_TV.cumsum(-1) - sorted_TV
        kept_TV = kept_TV & torch.zeros_like(kept_TV).scatter(1, order_TV, before_TV < top_p)
    return kept_TV.scatter(1, target_T[:, None], True)


def _entropy(log_probs_TV: Tensor) -> Tensor:
    """In nats, (T,); a chunk of tokens at a time."""
    chunk = max(1, CHUNK_BYTES // (4 * log_probs_TV.shape[1]))
    return torch.cat([torch.special.entr(part.exp()).sum(-1) for part in log_probs_TV.split(chunk)])


def from_hidden_states(
    model: nn.Module, config: TrainerConfig, autocast: Autocast, *, num_processes: int = 1
) -> Predict:
    """Apply the output matrix ourselves, in chunks.

    Raises:
        ValueError: The model's logits are more than its last states times a matrix, or there are
            several processes.
    """
    if num_processes > 1:
        raise ValueError("chunked_log_probs works in one process, got several")
    plain = cast("Any", base_model(model))  # an adapter's layers lie within it
    head = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(
            "chunked_log_probs needs a model whose get_output_embeddings() is a Linear without "
            f"bias, got {_named(head)}"
        )

    options = no_cache(plain)

    def hidden(ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        out = plain.base_model(ids_BT, attention_mask=real_BT, **options)
        return out if isinstance(out, Tensor) else out.last_hidden_state

    ids = torch.arange(3, device=head.weight.device)[None]
    with torch.no_grad(), autocast(), evaluating(plain):
        logits = plain(ids, attention_mask=torch.ones_like(ids), **options).logits
        gap = (logits - head(hidden(ids, torch.ones_like(ids)))).abs().max()
    changed = _final_change(plain)
    if changed or gap > 1e-3 * logits.abs().max():
        raise ValueError(
            "chunked_log_probs needs logits that are the last states times the output matrix; "
            f"this model changes them further, by {changed or f'up to {gap:.2g}'}"
        )

    limit = longest(model)

    def predict(rows: Rows, *, with_entropy: bool = True) -> tuple[Tensor, Tensor]:
        if limit is not None:
            limit.refuse(rows.ids_BL.shape[1], "a sample")
        with autocast():
            states_BLD = hidden(rows.ids_BL, rows.real_BL)
        states_UD = states_BLD[rows.wanted_BL].to(head.weight.dtype) / config.temperature
        if not with_entropy:
            picked_U = linear_log_probs(states_UD, head.weight, rows.target_U)
            return rows.spread(picked_U), picked_U.new_empty(0)
        picked_U, entropy_U = linear_log_probs_and_entropy(states_UD, head.weight, rows.target_U)
        return rows.spread(picked_U), rows.spread(entropy_U)

    return predict


def _final_change(model: nn.Module) -> str:
    """What a configuration does to logits; of a model that is new, too small to be measured."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    cap = getattr(text, "final_logit_softcapping", None)
    return f"final_logit_softcapping={cap}" if cap else ""


def _named(head: object) -> str:
    """An adapter's Linear is called the same."""
    kind = type(head)
    return f"an adapter on {kind.__name__}" if kind.__module__.startswith("peft") else kind.__name__
