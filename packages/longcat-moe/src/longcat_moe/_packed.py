"""Weights laid out once for reading, so that a product with few rows runs at the speed of memory.

- On CPU, a step of generation multiplies each matrix by a handful of rows. The general product
  packs the matrix anew each time; oneDNN's packed layout does it once (measured in the README).
- A packed model computes the same function, cannot be trained, and is only worth its memory (a
  second copy of the matrices) where it is used often.
- Experts that no token chose are not touched.

Where oneDNN or its operators are absent, or all matrices are small, `pack` returns the model
itself.

Dimension key: T tokens, D model width, N FFN experts, K chosen per token, P chosen pairs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ._experts import Experts, Router, dispatch
from ._meta import on_meta
from ._model import LongcatForCausalLM

# A layout good for few rows; oneDNN repacks nothing for other numbers, and 1 is worse even at 1.
_ROWS = 16
_MIN_MATRIX = 1 << 18
"""Numbers in a matrix below which the plain product is as fast, or faster (by 10 us a call)."""
_MIN_EXPERT = 1 << 17
"""Weights of one expert below which a call for each costs more than packing saves."""
_RAW = ("kv_b_proj", "classifier")
"""Read as tensors: by absorbed attention, and by the router in float32."""


def can_pack(weight: Tensor) -> bool:
    """Whether packing exists for such a matrix here."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class PackedLinear(nn.Module):
    """A linear map without bias on a packed matrix."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = _pack(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        return _product(x, self.packed)


class PackedExperts(nn.Module):
    """`Experts` on packed matrices, one product for each expert that was chosen."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.num_ffn = experts.num_ffn
        self.gate_up = [_pack(weight) for weight in experts.gate_up_proj.detach()]
        self.down = [_pack(weight) for weight in experts.down_proj.detach()]

    def forward(self, x_TD: Tensor, weight_TK: Tensor, index_TK: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' outputs, (T, D)."""
        return dispatch(x_TD, weight_TK, index_TK, self.num_ffn, self._grouped_ffn)

    def _grouped_ffn(self, x_PD: Tensor, nums_N: Tensor) -> Tensor:
        nums: list[int] = nums_N.tolist()
        chosen = [expert for expert, num in enumerate(nums) if num]
        rows = [nums[expert] for expert in chosen]
        parts = zip(x_PD.split(rows), chosen, strict=True)
        h = torch.cat([_product(x, self.gate_up[expert]) for x, expert in parts])
        gate, up = h.chunk(2, dim=-1)
        parts = zip((nn.functional.silu(gate) * up).split(rows), chosen, strict=True)
        return torch.cat([_product(x, self.down[expert]) for x, expert in parts])


def pack(model: LongcatForCausalLM) -> LongcatForCausalLM:
    """Return a model for generation alone that shares embeddings and norms with this one.

    The matrices are read now: a later change to them is not seen.
    """
    is_packed = any(isinstance(module, PackedLinear) for module in model.modules())
    if is_packed or not can_pack(model.lm_head.weight):
        return model
    if not any(
        _is_worth_it(*named) for module in model.modules() for named in module.named_children()
    ):
        return model
    with on_meta():
        packed = LongcatForCausalLM(model.config)
    packed.load_state_dict(model.state_dict(), assign=True)
    for module in list(packed.modules()):
        if isinstance(module, Router):
            module.counts = torch.zeros(len(module.e_score_correction_bias))
        for name, child in list(module.named_children()):
            if not _is_worth_it(name, child):
                continue
            if isinstance(child, Experts):
                setattr(module, name, PackedExperts(child))
            else:
                setattr(module, name, PackedLinear(cast(nn.Linear, child).weight.detach()))
    return packed.eval().requires_grad_(False)


def _is_worth_it(name: str, module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return name not in _RAW and module.weight.numel() >= _MIN_MATRIX
    return isinstance(module, Experts) and module.gate_up_proj[0].numel() >= _MIN_EXPERT


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)


def _product(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
