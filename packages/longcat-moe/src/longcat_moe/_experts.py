"""Route tokens to experts, some of which do nothing.

- The selection bias chooses experts and never weighs them.
- An identity ("zero-computation") expert returns its input, times its routing weight.
- Only the tokens that chose an expert are computed, as one grouped matrix product over all experts.
- On a GPU, and under `torch.compile`, all shapes are fixed beforehand, so that nobody waits for a
  count: pairs of identity experts are carried along, masked, and not computed.

Dimension key: T tokens, D model width, E experts (FFN then identity), N FFN experts, K chosen per
token, I expert width, P chosen pairs that need an FFN expert.

Source: LongCat-Flash report 2.1, equations 1 to 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ._config import LongcatConfig
from ._grouped import grouped_product


@dataclass(frozen=True, slots=True)
class Routing:
    """What one router said of one batch."""

    scores_TE: Tensor
    """Softmax over all experts, with its gradient."""
    index_TK: Tensor


class Router(nn.Module):
    """Softmax over all experts in float32; top-k by score plus bias."""

    e_score_correction_bias: Tensor
    """(E,) The selection bias b. Moved by `BiasController`, never by gradients."""
    counts: Tensor
    """(E,) Tokens sent to each expert in training since the controller last looked."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.top_k, self.scaling = config.moe_topk, config.routed_scaling_factor
        self.classifier = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts))
        self.register_buffer("counts", torch.zeros(config.num_experts), persistent=False)
        self.records: list[Routing] | None = None
        """Where to note what was routed; see `record_routing`."""
        self.is_again = False
        """Whether a layer is computed a second time, for its gradient, so that nothing is noted."""

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights (T, K) and indices (T, K) of the chosen experts."""
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = nn.functional.linear(x_TD.float(), self.classifier.weight.float())
        scores_TE = logits_TE.softmax(-1)
        biased_TE = scores_TE.detach() + self.e_score_correction_bias
        index_TK = biased_TE.topk(self.top_k, dim=-1, sorted=False).indices
        if self.training and not self.is_again:
            with torch.no_grad():
                # Not `bincount`, which on a GPU waits to see the largest index.
                chosen = index_TK.flatten()
                ones = torch.ones_like(chosen, dtype=biased_TE.dtype)
                self.counts += torch.zeros_like(biased_TE[0]).index_add_(0, chosen, ones)
        if self.records is not None and not self.is_again:
            self.records.append(Routing(scores_TE, index_TK))
        return scores_TE.gather(1, index_TK) * self.scaling, index_TK


class Experts(nn.Module):
    """The FFN experts as two stacked tensors; identity experts hold nothing."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        n, width, inner = (
            config.n_routed_experts,
            config.hidden_size,
            config.expert_ffn_hidden_size,
        )
        self.num_ffn = n
        self.gate_up_proj = nn.Parameter(torch.empty(n, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(n, width, inner))

    def forward(self, x_TD: Tensor, weight_TK: Tensor, index_TK: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' outputs, (T, D)."""
        is_static = x_TD.is_cuda or torch.compiler.is_compiling()
        way = dispatch_static if is_static else dispatch
        return way(x_TD, weight_TK, index_TK, self.num_ffn, self._grouped_ffn)

    def _grouped_ffn(self, x_PD: Tensor, nums_N: Tensor) -> Tensor:
        dtype = x_PD.dtype
        if torch.is_autocast_enabled(x_PD.device.type):  # grouped_mm is not on autocast's list
            dtype = torch.get_autocast_dtype(x_PD.device.type)
        gate_up, down = self.gate_up_proj.to(dtype), self.down_proj.to(dtype)
        width, inner = down.shape[1:]
        # Rows of a grouped product must have multiples of 16 bytes; zeros fill them up.
        more_D, more_I = (-size % (16 // dtype.itemsize) for size in (width, inner))
        if more_D or more_I:
            pad = nn.functional.pad
            gate_up = pad(gate_up.unflatten(1, (2, inner)), (0, more_D, 0, more_I)).flatten(1, 2)
            down, x_PD = pad(down, (0, more_I, 0, more_D)), pad(x_PD, (0, more_D))
        ends_N = nums_N.cumsum(0, dtype=torch.int32)
        h = grouped_product(x_PD.to(dtype), gate_up.transpose(1, 2), ends_N)
        gate, up = h.chunk(2, dim=-1)
        y_PD = grouped_product(nn.functional.silu(gate) * up, down.transpose(1, 2), ends_N)
        return y_PD[:, :width] if more_D else y_PD


def dispatch(
    x_TD: Tensor,
    weight_TK: Tensor,
    index_TK: Tensor,
    num_ffn: int,
    grouped_ffn: Callable[[Tensor, Tensor], Tensor],
    *,
    can_skip: bool = True,
) -> Tensor:
    """Sort tokens by expert, compute, and add up what the chosen experts say, (T, D).

    Args:
        x_TD: The tokens.
        weight_TK: What each choice weighs.
        index_TK: The chosen experts; those from `num_ffn` on return their input.
        num_ffn: FFN experts.
        grouped_ffn: Maps tokens sorted by expert (P, D) and how many each expert has (N,) to (P,
            D).
        can_skip: Whether it need not be called where no FFN expert was chosen.
    """
    is_identity = index_TK >= num_ffn
    out_TD = x_TD * (weight_TK * is_identity).sum(-1, keepdim=True).to(x_TD.dtype)
    chosen = index_TK.flatten()
    nums_N = torch.bincount(chosen, minlength=num_ffn)[:num_ffn]
    # Identity experts sort last and fall off.
    order_P = chosen.argsort(stable=True)[: int(nums_N.sum())]
    if order_P.numel() == 0 and can_skip:
        return out_TD
    token_P = order_P // index_TK.shape[1]
    y_PD = grouped_ffn(x_TD[token_P], nums_N)
    y_PD = y_PD * weight_TK.flatten()[order_P, None].to(y_PD.dtype)
    return out_TD.index_add(0, token_P, y_PD.to(out_TD.dtype))


def dispatch_static(
    x_TD: Tensor,
    weight_TK: Tensor,
    index_TK: Tensor,
    num_ffn: int,
    grouped_ffn: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Do what `dispatch` does in shapes that depend on T alone, without asking the device anything.

    P is all T * K pairs; those of identity experts stand at the end, where no group reaches. A
    grouped product leaves their rows as it found them, in both directions: both masks are needed.
    """
    sorted_P, order_P = index_TK.flatten().sort(stable=True)
    experts_N = torch.arange(num_ffn, device=index_TK.device)
    ends_N = torch.searchsorted(sorted_P, experts_N, right=True)
    # Not `len`, which fixes the size where this is traced.
    steps_P = torch.arange(order_P.shape[0], device=order_P.device)
    place_TK = torch.empty_like(order_P).scatter(0, order_P, steps_P).view_as(index_TK)
    is_ffn_P1 = (sorted_P < num_ffn)[:, None]
    x_PD = cast(Tensor, _Spread.apply(x_TD, order_P // index_TK.shape[1], place_TK))
    nums_N = ends_N.diff(prepend=ends_N.new_zeros(1))
    y_PD = grouped_ffn(x_PD.where(is_ffn_P1, 0), nums_N).where(is_ffn_P1, 0)
    y_TKD = cast(Tensor, _Collect.apply(y_PD, order_P, place_TK))
    is_identity = index_TK >= num_ffn
    out_TD = x_TD * (weight_TK * is_identity).sum(-1, keepdim=True).to(x_TD.dtype)
    return out_TD + (y_TKD * weight_TK[..., None].to(y_TKD.dtype)).sum(1).to(x_TD.dtype)


class _Spread(torch.autograd.Function):
    """Tokens to pairs. The gradient is a sum over what each token's pairs got, in fixed order."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, token_P: Tensor, place_TK: Tensor) -> Tensor:
        ctx.save_for_backward(place_TK)
        return x_TD[token_P]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (place_TK,) = ctx.saved_tensors
        return grads[0][place_TK].sum(1), None, None


class _Collect(torch.autograd.Function):
    """Pairs to what each token chose, (T, K, D). `place_TK` and `order_P` undo each other."""

    @staticmethod
    def forward(ctx: Any, y_PD: Tensor, order_P: Tensor, place_TK: Tensor) -> Tensor:
        ctx.save_for_backward(order_P)
        return y_PD[place_TK]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (order_P,) = ctx.saved_tensors
        return grads[0].flatten(0, 1)[order_P], None, None


class MoE(nn.Module):
    """Router and experts."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.experts = Experts(config)
        self.router = Router(config)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Map (T, D) to (T, D)."""
        return self.experts(x_TD, *self.router(x_TD))


class BiasController:
    """Moves each router's bias so that on average K_e FFN experts answer a token.

    Once per optimiser step, for FFN experts only (equation 2):
    `db_i = rate * ((K_e / K) / N - T_i / (K * T_all))`. Identity experts keep bias zero.
    The counts are those of every training forward pass since the last step, on all processes of
    `group` where training is distributed (the report's global batch).
    """

    def __init__(
        self,
        model: nn.Module,
        config: LongcatConfig,
        *,
        rate: float,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.group = group
        if rate < 0:
            raise ValueError(f"rate must not be negative, got {rate}")
        self.routers = [module for module in model.modules() if isinstance(module, Router)]
        self.rate, self.num_ffn, self.top_k = rate, config.n_routed_experts, config.moe_topk
        self.target = config.num_active_ffn_experts / config.moe_topk / config.n_routed_experts

    @torch.no_grad()
    def step(self) -> float:
        """Move the biases; return the mean number of FFN experts per token just seen."""
        active: list[float] = []
        if dist.is_available() and dist.is_initialized():
            for router in self.routers:
                dist.all_reduce(router.counts, group=self.group)
        for router in self.routers:
            if not router.counts.any():
                continue
            share_N = router.counts[: self.num_ffn] / router.counts.sum()  # T_i / (K * T_all)
            router.e_score_correction_bias[: self.num_ffn] += self.rate * (self.target - share_N)
            active.append(float(share_N.sum()) * self.top_k)
            router.counts.zero_()
        return sum(active) / len(active) if active else 0.0
