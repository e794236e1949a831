"""Auxiliary losses of pre-training, and the figure that says whether balancing is too strong.

    with record_routing(model) as routings:
        logits = model(ids).logits
    loss = lm_loss + alpha * load_balance_loss(routings, config, num_groups=8)

Dimension key: T tokens, E experts (FFN then identity), K chosen per token, D model width, N FFN
experts.

Source: LongCat-Flash report, 2.1.1 (equations 3 to 5), 3.1.3 (equations 9 and 10), 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._config import LongcatConfig
from ._experts import Router, Routing
from ._model import LongcatForCausalLM


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[Routing]]:
    """Note what the routers say of what is computed inside, layer after layer.

    Once for each layer, also where activation checkpointing computes it twice.
    """
    records: list[Routing] = []
    routers = [module for module in model.modules() if isinstance(module, Router)]
    for router in routers:
        router.records = records
    try:
        yield records
    finally:
        for router in routers:
            router.records = None


def load_balance_loss(
    routings: Sequence[Routing], config: LongcatConfig, *, num_groups: int
) -> Tensor:
    """Return the device-level balance loss, mean over layers; 1 per group when all is balanced.

    FFN experts stand in `num_groups` equal groups, one a device; all identity experts are one more,
    which drives their share to that of `num_active_ffn_experts`. A token that chose two experts of
    a group counts twice there: with the report's factors, only then is the balanced state the
    least.

    Args:
        routings: From `record_routing`, of one micro-batch.
        config: Sizes.
        num_groups: D; must divide the number of FFN experts.

    Raises:
        ValueError: The groups are not equal, or nothing was recorded.
    """
    num_ffn, top_k, active = config.n_routed_experts, config.moe_topk, config.num_active_ffn_experts
    if num_groups < 1 or num_ffn % num_groups:
        raise ValueError(f"num_groups={num_groups} must divide n_routed_experts={num_ffn}")
    if not routings:
        raise ValueError("routings must hold one entry per layer, got none")
    total = torch.zeros((), device=routings[0].scores_TE.device)
    for routing in routings:
        num_tokens = len(routing.scores_TE)
        chosen_E = torch.bincount(routing.index_TK.flatten(), minlength=config.num_experts).float()
        mean_E = routing.scores_TE.mean(0)
        f_D = chosen_E[:num_ffn].view(num_groups, -1).sum(1) * num_groups / (active * num_tokens)
        total = total + (f_D * mean_E[:num_ffn].view(num_groups, -1).sum(1)).sum()
        if config.zero_expert_num:
            f_zero = chosen_E[num_ffn:].sum() / ((top_k - active) * num_tokens)
            total = total + f_zero * mean_E[num_ffn:].sum()
    return total / len(routings)


def balance_gradient_ratio(
    lm_loss: Tensor, balance_loss: Tensor, routings: Sequence[Routing], *, alpha: float
) -> float:
    """Return R_g, how hard balancing pulls at the mean expert probabilities; keep it under 0.1.

    `|alpha dL_LB / dP| / |dL_LM / dP|` with P the batch mean of the router's scores, over all
    layers; a shift of P shifts every token's scores, so that the gradients of tokens add up.
    """
    scores = [routing.scores_TE for routing in routings]
    norms: list[float] = []
    for loss in (balance_loss, lm_loss):
        grads = torch.autograd.grad(loss, scores, retain_graph=True, allow_unused=True)
        pulls = [grad.sum(0) for grad in grads if grad is not None]
        norms.append(float(torch.cat(pulls).norm()) if pulls else 0.0)
    return alpha * norms[0] / norms[1] if norms[1] else float("inf")


@torch.no_grad()
def router_similarity(model: nn.Module) -> list[float]:
    """Return each router's mean cosine between the vectors of two experts, in order.

    Near 0 the experts are told apart; where it grows towards 1, the router has lost its way (report
    3.1.3).
    """
    found: list[float] = []
    for router in (module for module in model.modules() if isinstance(module, Router)):
        unit_ED = nn.functional.normalize(router.classifier.weight.double(), dim=-1)
        num = len(unit_ED)
        # The square of the sum holds every pair twice, and each vector with itself.
        total = float(unit_ED.sum(0).square().sum()) - float(unit_ED.square().sum())
        found.append(total / (num * (num - 1)) if num > 1 else 0.0)
    return found


def hidden_z_loss(state: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return mean over tokens of (log sum_i exp |z_i|)^2, which holds large activations down.

    Args:
        state: (..., D), the last state before the final norm: `model.model.last_state(...)`.
        mask: (...), true for real tokens.
    """
    squared = state.float().abs().logsumexp(-1).square()
    return squared.mean() if mask is None else squared[mask.bool()].mean()


def mtp_loss(
    model: LongcatForCausalLM,
    hidden_BTD: Tensor,
    input_ids: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """Return the head's mean cross-entropy for the token after the next.

    Args:
        model: With `num_nextn_predict_layers=1`.
        hidden_BTD: What `model.model` returned for `input_ids`.
        input_ids: (B, T).
        mask: (B, T), true where a token is a target; all when absent.
        lengths: Of packed sequences; targets never cross from one to the next.

    Raises:
        ValueError: There is no head, or no text is three tokens long.
    """
    guess = model.predict_next(hidden_BTD, input_ids.roll(-1, dims=1), lengths=lengths)
    is_target = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    is_target = is_target.roll(-2, dims=1).clone()
    ends = [input_ids.shape[1]] if lengths is None else torch.tensor(lengths).cumsum(0).tolist()
    for end in ends:  # the last two of a text have no token after the next
        is_target[:, max(0, end - 2) : end] = False
    if not is_target.any():
        raise ValueError("mtp_loss needs a text of three tokens at least, with a target in it")
    targets = input_ids.roll(-2, dims=1)[is_target]
    return nn.functional.cross_entropy(model.lm_head(guess[is_target]).float(), targets)
