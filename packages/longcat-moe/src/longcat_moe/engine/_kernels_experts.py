"""Triton kernels of one decoding step: the router and its experts. See `_kernels`.

The router rounds as the model does, so that it chooses the same experts. All rows meet each expert
that anybody chose as one tile; those who did not choose it get nothing of it.

Dimension key: B rows, D model width, E experts (FFN then identity), I expert width.
"""

# Triton's language is compiled from this text; it only looks like Python.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false, reportOptionalMemberAccess=false, reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def route(
    x, gain, classifier, logits, normed,
    rows, width, num_experts, eps,
    BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One expert's logit for some rows, in float32, of states rounded as the model does."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    expert, b = tl.program_id(0), tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, BLOCK_K)
    is_b, is_k = b < rows, k < width
    mask = is_b[:, None] & is_k[None, :]
    tile = tl.load(x + b[:, None] * width + k[None, :], mask=mask, other=0.0)
    wide = tile.to(tl.float32)
    by_row = tl.rsqrt(tl.sum(wide * wide, 1) / width + eps)[:, None]
    by = tl.load(gain + k, mask=is_k, other=0.0).to(tl.float32)
    unit = (wide * by_row).to(tile.dtype).to(tl.float32)
    unit = (unit * by[None, :]).to(tile.dtype)
    if expert == 0:
        tl.store(normed + b[:, None] * width + k[None, :], unit, mask=mask)
    weights = tl.load(classifier + expert * width + k, mask=is_k, other=0.0).to(tl.float32)
    said = tl.sum(unit.to(tl.float32) * weights[None, :], 1)
    tl.store(logits + b * num_experts + expert, said, mask=is_b)


@triton.jit
def choose(
    logits, bias, weights, chosen,
    rows, scaling,
    E: tl.constexpr, NUM_FFN: tl.constexpr, TOP_K: tl.constexpr, BLOCK_E: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """What one row weighs each expert, the identities as one at the end; and which it chose."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row, e = tl.program_id(0), tl.arange(0, BLOCK_E)
    is_e = e < E
    said = tl.load(logits + row * E + e, mask=is_e, other=float("-inf"))
    scores = tl.exp(said - tl.max(said, 0))
    scores = scores / tl.sum(scores, 0)
    biased = scores + tl.load(bias + e, mask=is_e, other=0.0).to(tl.float32)
    biased = tl.where(is_e, biased, float("-inf"))
    mine = tl.zeros((BLOCK_E,), tl.float32)
    for place in tl.static_range(TOP_K):
        best = tl.argmax(biased, 0)
        tl.store(chosen + row * TOP_K + place, best)
        mine = tl.where(e == best, scores, mine)
        biased = tl.where(e == best, float("-inf"), biased)
    mine *= scaling
    tl.store(weights + e * rows + row, mine, mask=e < NUM_FFN)
    tl.store(weights + NUM_FFN * rows + row, tl.sum(tl.where(e >= NUM_FFN, mine, 0.0), 0))


@triton.jit
def experts_up(
    x, weights, gate_up, act,
    rows, width,
    I: tl.constexpr,  # noqa: E741
    IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Some columns of one expert, if anybody chose it."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    expert, block = tl.program_id(0), tl.program_id(1)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    b = tl.arange(0, BLOCK_B)
    is_b = b < rows
    mine = tl.load(weights + expert * rows + b, mask=is_b, other=0.0)
    if tl.max(mine, 0) > 0:
        i, k = block * BLOCK_I + tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_K)
        is_i = i < I
        gate = tl.zeros((BLOCK_B, BLOCK_I), tl.float32)
        up = tl.zeros((BLOCK_B, BLOCK_I), tl.float32)
        of_gate = gate_up + (expert.to(tl.int64) * 2 * I + i)[:, None] * width
        for start in range(0, width, BLOCK_K):
            at = start + k
            is_k = at < width
            tile = tl.load(
                x + b[:, None] * width + at[None, :], mask=is_b[:, None] & is_k[None, :], other=0.0
            )
            mask = is_i[:, None] & is_k[None, :]
            part = tl.load(of_gate + at[None, :], mask=mask, other=0.0)
            part_2 = tl.load(of_gate + I * width + at[None, :], mask=mask, other=0.0)
            gate = tl.dot(tile, tl.trans(part), gate, input_precision=precision)
            up = tl.dot(tile, tl.trans(part_2), up, input_precision=precision)
        value = gate * tl.sigmoid(gate) * up
        at = act + (expert * rows + b)[:, None] * I + i[None, :]
        tl.store(at, value.to(act.dtype.element_ty), mask=is_b[:, None] & is_i[None, :])


@triton.jit
def experts_down(
    x, act, weights, down, out,
    rows, width,
    NUM_FFN: tl.constexpr, I: tl.constexpr, SPLITS: tl.constexpr,  # noqa: E741
    IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_I: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Some columns of what some experts say, weighed; the first share has the identities."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    block, split = tl.program_id(0), tl.program_id(1)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    share: tl.constexpr = (NUM_FFN + SPLITS - 1) // SPLITS
    b, e = tl.arange(0, BLOCK_B), split * share + tl.arange(0, BLOCK_E)
    is_b = b < rows
    is_mine = (tl.arange(0, BLOCK_E) < share) & (e < NUM_FFN)
    by = tl.load(
        weights + e[:, None] * rows + b[None, :], mask=is_mine[:, None] & is_b[None, :], other=0.0
    )
    is_active = tl.max(by, 1) > 0
    d, i = block * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_I)
    is_d = d < width
    acc = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    expert = tl.min(tl.where(is_active, e, NUM_FFN), 0)
    while expert < NUM_FFN:
        part = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
        of_act = act + (expert * rows + b)[:, None] * I
        of_down = down + (expert.to(tl.int64) * width + d)[:, None] * I
        for start in range(0, I, BLOCK_I):
            at = start + i
            is_i = at < I
            tile = tl.load(of_act + at[None, :], mask=is_b[:, None] & is_i[None, :], other=0.0)
            matrix = tl.load(of_down + at[None, :], mask=is_d[:, None] & is_i[None, :], other=0.0)
            part = tl.dot(tile, tl.trans(matrix), part, input_precision=precision)
        mine = tl.sum(tl.where(e[:, None] == expert, by, 0.0), 0)
        acc += tl.where(mine[:, None] > 0, part * mine[:, None], 0.0)
        is_active = is_active & (e > expert)
        expert = tl.min(tl.where(is_active, e, NUM_FFN), 0)
    at = b[:, None] * width + d[None, :]
    mask = is_b[:, None] & is_d[None, :]
    if split == 0:
        rest = tl.load(weights + NUM_FFN * rows + b, mask=is_b, other=0.0)
        acc += rest[:, None] * tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + split * rows * width + at, acc, mask=mask)
