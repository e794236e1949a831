"""The grouped matrix product of experts, also where torch cannot trace it.

torch traces its own product in bfloat16 alone; in other dtypes it runs, but `torch.compile` and
`torch.export` fail. There it is an operator of ours, which they take as it is.

Dimension key: P rows sorted by group, N groups, K and I widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def grouped_product(x_PK: Tensor, w_NKI: Tensor, ends_N: Tensor) -> Tensor:
    """Multiply the rows of each group by its matrix, (P, I); rows after the last are undefined.

    Args:
        x_PK: Rows, sorted by group.
        w_NKI: A matrix for each group.
        ends_N: Where each group ends, int32.
    """
    if torch.compiler.is_compiling() and x_PK.dtype != torch.bfloat16:
        return torch.ops.longcat_moe.grouped_product(x_PK, w_NKI, ends_N)
    return nn.functional.grouped_mm(x_PK, w_NKI, offs=ends_N)


@torch.library.custom_op("longcat_moe::grouped_product", mutates_args=())
def _product(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    return nn.functional.grouped_mm(x, w, offs=ends)


@torch.library.custom_op("longcat_moe::grouped_outer", mutates_args=())
def _outer(x: Tensor, y: Tensor, ends: Tensor) -> Tensor:
    """The product of each group's columns of x and rows of y: the gradient of its matrix."""
    return nn.functional.grouped_mm(x, y, offs=ends)


@_product.register_fake
def _(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[2])


@_outer.register_fake
def _(x: Tensor, y: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(ends.shape[0], x.shape[0], y.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w, ends = ctx.saved_tensors
    to_x, to_w = ctx.needs_input_grad[:2]
    grad = grad.contiguous()
    return (
        torch.ops.longcat_moe.grouped_product(grad, w.transpose(1, 2), ends) if to_x else None,
        torch.ops.longcat_moe.grouped_outer(x.transpose(0, 1), grad, ends) if to_w else None,
        None,
    )


_product.register_autograd(_backward, setup_context=_keep)
