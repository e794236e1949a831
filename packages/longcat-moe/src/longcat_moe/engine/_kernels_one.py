"""Triton kernels of one decoding step for a single row: no tiles, all reads of a program at once.

- A program takes a few rows of a matrix whole, so that it has nothing to loop over, and there are
  enough programs to keep the memory busy.
- With `PDL` weights are asked for before the kernel that writes the state has ended.

The same steps as in `_kernels`, and the same dimension key.
"""

# Triton's language is compiled from this text; it only looks like Python.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# ruff: noqa: SIM102, C901

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def embed(
    ids, table, gain, out, out_unit, squares,
    rows, width, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A token's first state, left for the first norm."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK_K)
    is_k = k < width
    said = tl.load(table + tl.load(ids + row) * width + k, mask=is_k, other=0.0)
    wide = said.to(tl.float32)
    gains = tl.load(gain + k, mask=is_k, other=0.0).to(tl.float32)
    tl.store(out + row * width + k, said, mask=is_k)
    tl.store(out_unit + row * width + k, (wide * gains).to(out.dtype.element_ty), mask=is_k)
    tl.store(squares + row, tl.sum(wide * wide, 0))


@triton.jit
def linear_one(
    x, squares_in, w, w_2, res, more, gain, out, out_unit, squares_out,
    num, num_2, width, num_squares, eps, scale,
    HAS_NORM: tl.constexpr, KIND: tl.constexpr, HAS_RES: tl.constexpr, HAS_MORE: tl.constexpr,
    HAS_GAIN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_Q: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """`linear` for one row."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    pid = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    is_k = k < width
    n = pid * BLOCK_N + tl.arange(0, BLOCK_N)
    out_n, is_n, matrix = n, n < num, w
    is_first = True
    if KIND == "pair":
        first = tl.cdiv(num, BLOCK_N)
        is_first = pid < first
        if pid >= first:
            matrix = w_2
            n = (pid - first) * BLOCK_N + tl.arange(0, BLOCK_N)
            out_n, is_n = num + n, n < num_2
    at = n[:, None].to(tl.int64) * width + k[None, :]
    mask = is_n[:, None] & is_k[None, :]
    part = tl.load(matrix + at, mask=mask, other=0.0)
    if KIND == "swiglu":
        part_2 = tl.load(w_2 + at, mask=mask, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    state = tl.load(x + k, mask=is_k, other=0.0).to(tl.float32)[None, :]
    acc = tl.sum(part.to(tl.float32) * state, 1)
    by = scale
    if HAS_NORM:
        q = tl.arange(0, BLOCK_Q)
        found = tl.load(squares_in + q, mask=q < num_squares, other=0.0)
        by_row = tl.rsqrt(tl.sum(found, 0) / width + eps)
        acc *= by_row
    if KIND == "swiglu":
        acc_2 = tl.sum(part_2.to(tl.float32) * state, 1)
        if HAS_NORM:
            acc_2 *= by_row
        acc = acc * tl.sigmoid(acc) * acc_2
    acc *= by
    if HAS_RES:
        acc += tl.load(res + out_n, mask=is_n, other=0.0).to(tl.float32)
    if HAS_MORE:
        acc += tl.load(more + out_n, mask=is_n, other=0.0)
    said = acc.to(out.dtype.element_ty)
    tl.store(out + out_n, said, mask=is_n)
    if HAS_GAIN:
        if is_first:
            wide = said.to(tl.float32)
            gains = tl.load(gain + n, mask=is_n, other=0.0).to(tl.float32)
            tl.store(out_unit + out_n, (wide * gains).to(out.dtype.element_ty), mask=is_n)
            wide = tl.where(is_n, wide, 0.0)
            tl.store(squares_out + pid, tl.sum(wide * wide, 0))


@triton.jit
def combine_one(
    seen, tops, sums, up, out,
    H: tl.constexpr, N: tl.constexpr, V: tl.constexpr, C: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """`combine` for one row."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    h, v = tl.program_id(0), tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    c, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    is_c, is_s, is_v = c < C, s < SPLITS, v < V
    matrix = tl.load(
        up + (h * (N + V) + N + v)[:, None] * C + c[None, :],
        mask=is_v[:, None] & is_c[None, :], other=0.0,
    )  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_wait()
    top = tl.load(tops + s * H + h, mask=is_s, other=float("-inf"))
    share = tl.exp(top - tl.max(top, 0))
    total = tl.sum(share * tl.load(sums + s * H + h, mask=is_s, other=0.0), 0)
    parts = tl.load(
        seen + (s * H + h)[:, None] * C + c[None, :], mask=is_s[:, None] & is_c[None, :], other=0.0
    )
    joined = tl.sum(parts * (share / total)[:, None], 0).to(matrix.dtype).to(tl.float32)
    said = tl.sum(matrix.to(tl.float32) * joined[None, :], 1)
    tl.store(out + h * V + v, said.to(out.dtype.element_ty), mask=is_v)


@triton.jit
def experts_up_one(
    x, chosen, gate_up, act,
    width,
    NUM_FFN: tl.constexpr, I: tl.constexpr,  # noqa: E741
    BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Some columns of one chosen expert, unless it is an identity."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    place, block = tl.program_id(0), tl.program_id(1)
    expert = tl.load(chosen + place)
    if expert < NUM_FFN:
        i, k = block * BLOCK_I + tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_K)
        is_k = k < width
        at = (expert.to(tl.int64) * 2 * I + i)[:, None] * width + k[None, :]
        mask = (i < I)[:, None] & is_k[None, :]
        part = tl.load(gate_up + at, mask=mask, other=0.0)
        part_2 = tl.load(gate_up + I * width + at, mask=mask, other=0.0)
        state = tl.load(x + k, mask=is_k, other=0.0).to(tl.float32)[None, :]
        gate = tl.sum(part.to(tl.float32) * state, 1)
        up = tl.sum(part_2.to(tl.float32) * state, 1)
        value = gate * tl.sigmoid(gate) * up
        tl.store(act + place * I + i, value.to(act.dtype.element_ty), mask=i < I)


@triton.jit
def experts_down_one(
    x, chosen, act, weights, down, out,
    width,
    NUM_FFN: tl.constexpr, TOP_K: tl.constexpr, I: tl.constexpr,  # noqa: E741
    BLOCK_D: tl.constexpr, BLOCK_I: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Some columns of what all chosen experts say, weighed, the identities included."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    d, i = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_I)
    is_d, is_i = d < width, i < I
    rest = tl.load(weights + NUM_FFN)
    acc = tl.load(x + d, mask=is_d, other=0.0).to(tl.float32) * rest
    for place in tl.static_range(TOP_K):
        expert = tl.load(chosen + place)
        is_ffn = expert < NUM_FFN
        weight = tl.load(weights + tl.minimum(expert, NUM_FFN))
        state = tl.load(act + place * I + i, mask=is_i & is_ffn, other=0.0).to(tl.float32)
        matrix = tl.load(
            down + (expert.to(tl.int64) * width + d)[:, None] * I + i[None, :],
            mask=is_d[:, None] & is_i[None, :] & is_ffn, other=0.0,
        )  # fmt: skip
        said = tl.sum(matrix.to(tl.float32) * state[None, :], 1)
        acc += tl.where(is_ffn, said * weight, 0.0)
    tl.store(out + d, acc, mask=is_d)
