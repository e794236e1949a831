"""Batches not simply padded on the right: texts are packed, and their states put back.

Dimension key: B rows, T places of each, P real tokens of all, D model width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._model import LongcatModel


def needs_packing(ids_BT: Tensor, mask_BT: Tensor | None, position_ids: Tensor | None) -> bool:
    """Whether rows begin with padding, or hold several texts.

    While a graph is compiled nothing can be looked at: padding must then be on the right.

    Raises:
        ValueError: The mask or the positions have another shape, or the mask has holes.
    """
    check_positions(ids_BT, position_ids)
    if mask_BT is not None and mask_BT.shape != ids_BT.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids_BT.shape)}, got "
            f"{tuple(mask_BT.shape)}"
        )
    if torch.compiler.is_compiling():
        return False
    if mask_BT is None:
        return position_ids is not None and bool((position_ids.diff(dim=-1) != 1).any())
    real = mask_BT.bool()
    if not bool((real[:, 1:] & ~real[:, :-1]).any()):
        return False
    starts_B = real[:, 0].long() + (real[:, 1:] & ~real[:, :-1]).sum(1)
    if bool((starts_B > 1).any()):
        raise ValueError("attention_mask must be one run of 1s in every row, without holes")
    return True


def check_positions(ids_BT: Tensor, position_ids: Tensor | None) -> None:
    """Check that there is a position for each token, or for each of one row.

    Raises:
        ValueError: Positions have another shape.
    """
    shapes = (ids_BT.shape, (1, ids_BT.shape[-1]))
    if position_ids is not None and position_ids.shape not in shapes:
        raise ValueError(
            f"position_ids must have the shape of input_ids, {tuple(ids_BT.shape)}, or one row, "
            f"got {tuple(position_ids.shape)}"
        )


def forward_packed(
    model: LongcatModel,
    ids_BT: Tensor,
    mask_BT: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None = None,
    states: list[Tensor] | None = None,
) -> Tensor:
    """Return the normed last states (B, T, D) of a batch that needs packing; 0 at padding."""
    real_BT = torch.ones_like(ids_BT, dtype=torch.bool) if mask_BT is None else mask_BT.bool()
    positions_BT = None
    if position_ids is not None:
        positions_BT = position_ids.expand(ids_BT.shape)
    if mask_BT is None and positions_BT is not None:
        begins_BT = torch.ones_like(real_BT)
        begins_BT[:, 1:] = positions_BT.diff(dim=1) != 1
        begins = begins_BT.flatten().nonzero().flatten().tolist()
        ends = [*begins[1:], ids_BT.numel()]
        lengths = [end - begin for begin, end in zip(begins, ends, strict=True)]
    else:
        lengths = [num for num in real_BT.sum(1).tolist() if num]
    packed: list[Tensor] | None = None if states is None else []
    hidden_1PD = model(
        ids_BT[real_BT][None],
        None,
        None if positions_BT is None else positions_BT[real_BT][None],
        lengths=lengths,
        inputs_embeds=None if inputs_embeds is None else inputs_embeds[real_BT][None],
        states=packed,
    )
    if states is not None and packed is not None:
        states += [_put_back(state[0], real_BT) for state in packed]
    return _put_back(hidden_1PD[0], real_BT)


def _put_back(x_PD: Tensor, real_BT: Tensor) -> Tensor:
    out = x_PD.new_zeros(*real_BT.shape, x_PD.shape[-1])
    return out.masked_scatter(real_BT[..., None], x_PD)
