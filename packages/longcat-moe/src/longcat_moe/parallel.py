"""Train on several processes: FFN experts spread over them, everything else sharded by FSDP2.

    mesh = init_device_mesh("cuda", (num_data, num_experts), mesh_dim_names=("dp", "ep"))
    parallelize(model, mesh)        # then train as before, each process on its own tokens

- Each process holds 1 / ep of the experts of every layer. Tokens travel to the experts they chose
  and back; a process's own tokens never wait for more than the exchange itself.
- All other weights are sharded over all processes (FSDP2), experts once more over `dp`.
- Gradients are those of the mean of all processes' losses, as one process would have had them on
  all tokens together. Losses must therefore be means over equally many tokens.
- Weights are DTensors, so that `torch.distributed.checkpoint` saves what is sharded and loads it
  unsharded, or the other way round.

Nothing here is imported by the package itself.

Dimension key: P chosen pairs of this process, Q pairs that other processes (and this one) sent
here, D model width, N FFN experts, R processes that share experts, M experts of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ._experts import Experts, dispatch
from ._model import DecoderLayer, LongcatForCausalLM


class ParallelExperts(nn.Module):
    """`Experts` of which this process holds a part: DTensors, `Shard(0)` over `ep`."""

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        super().__init__()
        if experts.num_ffn % mesh.size():
            raise ValueError(
                f"n_routed_experts={experts.num_ffn} must be divisible by the ep axis, "
                f"{mesh.size()}"
            )
        self.num_ffn, self.group, self.num_ranks = experts.num_ffn, mesh.get_group(), mesh.size()
        for name, weight in experts.named_parameters():
            placed = distribute_tensor(weight.detach(), mesh, [Shard(0)])
            self.register_parameter(name, nn.Parameter(placed))

    def forward(self, x_TD: Tensor, weight_TK: Tensor, index_TK: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' outputs, (T, D)."""
        return dispatch(x_TD, weight_TK, index_TK, self.num_ffn, self._exchange, can_skip=False)

    def _exchange(self, x_PD: Tensor, nums_N: Tensor) -> Tensor:
        """Send tokens to their experts' processes, compute there, and send the results back."""
        sent_RM = nums_N.view(self.num_ranks, -1)
        got_RM = torch.empty_like(sent_RM)
        torch.distributed.all_to_all_single(got_RM, sent_RM, group=self.group)
        to_R, from_R = sent_RM.sum(1).tolist(), got_RM.sum(1).tolist()
        x_QD = _Swap.apply(x_PD, to_R, from_R, self.group)
        # By sender, then by expert; the product wants them by expert.
        expert_Q = torch.arange(got_RM.shape[1], device=x_PD.device).repeat(self.num_ranks)
        order_Q = expert_Q.repeat_interleave(got_RM.flatten()).argsort(stable=True)
        y_QD = self._grouped_ffn(x_QD[order_Q], got_RM.sum(0))
        y_QD = torch.empty_like(y_QD).index_copy(0, order_Q, y_QD)
        return _Swap.apply(y_QD, from_R, to_R, self.group)

    def _grouped_ffn(self, x_QD: Tensor, nums_M: Tensor) -> Tensor:
        # Tokens of all `ep` processes meet these weights; FSDP divides by the `dp` ones alone.
        gate_up, down = (
            _DivideGradient.apply(w.to_local() if isinstance(w, DTensor) else w, self.num_ranks)
            for w in (self.gate_up_proj, self.down_proj)
        )
        if len(x_QD) == 0:  # no token came; the weights still take part, with zero gradients
            return x_QD + 0 * (gate_up.sum() + down.sum())
        product, ends = nn.functional.grouped_mm, nums_M.cumsum(0, dtype=torch.int32)
        h = product(x_QD, gate_up.transpose(1, 2).to(x_QD.dtype), offs=ends)
        gate, up = h.chunk(2, dim=-1)
        h = nn.functional.silu(gate) * up
        return product(h, down.transpose(1, 2).to(x_QD.dtype), offs=ends)


class _Swap(torch.autograd.Function):
    """All-to-all along the first axis; gradients go the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: list[int], came: list[int], group: Any) -> Tensor:
        ctx.sizes, ctx.group = (to, came), group
        out = x.new_empty(sum(came), x.shape[1])
        torch.distributed.all_to_all_single(out, x.contiguous(), came, to, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        to, came = ctx.sizes
        back = grads[0].new_empty(sum(to), grads[0].shape[1])
        torch.distributed.all_to_all_single(back, grads[0].contiguous(), to, came, group=ctx.group)
        return back, None, None, None


class _DivideGradient(torch.autograd.Function):
    """The same tensor, with a part of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: int) -> Tensor:
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] / ctx.by, None


def parallelize(
    model: LongcatForCausalLM, mesh: DeviceMesh, *, wrap: Callable[..., Any] = fully_shard
) -> LongcatForCausalLM:
    """Spread a model over the processes of a mesh, in place; all must hold the same weights.

    Args:
        model: On this process's device.
        mesh: With axes `dp` and `ep`; either may have size one.
        wrap: FSDP2's `fully_shard`, with a policy of your own bound to it if need be.

    Raises:
        ValueError: The mesh has other axes, or the experts cannot be divided by `ep`.
    """
    if mesh.mesh_dim_names != ("dp", "ep"):
        raise ValueError(f"mesh axes must be ('dp', 'ep'), got {mesh.mesh_dim_names}")
    everyone = mesh["dp", "ep"]._flatten("all")
    for layer in model.model.layers:
        layer = cast(DecoderLayer, layer)
        if mesh["ep"].size() > 1:
            layer.mlp.experts = cast(Experts, ParallelExperts(layer.mlp.experts, mesh["ep"]))
            wrap(layer.mlp.experts, mesh=mesh["dp"])
        wrap(layer, mesh=everyone)
    wrap(model, mesh=everyone)
    return model
