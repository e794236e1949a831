"""Triton kernels of one decoding step: few rows, every weight read once. Products and sampling.

- Rows are padded to one tile of 16 or more; a tile of all rows meets each block of a matrix once.
- A norm costs no pass of its own. Whoever writes a state writes it a second time, times the gain of
  the next norm, and the squares of its columns; whoever reads that multiplies the product by
  `1 / rms` on the way out.
- No atomic additions: the same inputs give the same bits.
- With `PDL` (programmatic dependent launch) a kernel is set up while the one before it ends, and
  waits before it reads anything but weights.

Dimension key: B rows, D model width, W vocabulary.
"""

# Triton's language is compiled from this text; it only looks like Python.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# ruff: noqa: SIM102

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def linear(
    x, squares_in, w, w_2, res, more, gain, out, out_unit, squares_out,
    rows, num, num_2, width, x_stride, out_stride, num_squares, eps, scale,
    HAS_NORM: tl.constexpr, KIND: tl.constexpr, HAS_RES: tl.constexpr, NUM_MORE: tl.constexpr,
    HAS_GAIN: tl.constexpr, IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_Q: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """`x @ w.T`; with `swiglu` that of two matrices, with `pair` two side by side.

    With `HAS_NORM`, x lacks `1 / rms`, which its squares give; with `HAS_GAIN`, what comes out is
    left the same way for the next norm: times its gain, and the squares of these columns.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    pid = tl.program_id(0)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    b = tl.arange(0, BLOCK_B)
    is_b = b < rows
    k = tl.arange(0, BLOCK_K)
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
    acc = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
    acc_2 = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
    for start in range(0, width, BLOCK_K):
        at = start + k
        is_k = at < width
        tile = tl.load(
            x + b[:, None] * x_stride + at[None, :], mask=is_b[:, None] & is_k[None, :], other=0.0
        )
        part = tl.load(
            matrix + n[:, None].to(tl.int64) * width + at[None, :],
            mask=is_n[:, None] & is_k[None, :], other=0.0,
        )  # fmt: skip
        acc = tl.dot(tile, tl.trans(part), acc, input_precision=precision)
        if KIND == "swiglu":
            part_2 = tl.load(
                w_2 + n[:, None].to(tl.int64) * width + at[None, :],
                mask=is_n[:, None] & is_k[None, :], other=0.0,
            )  # fmt: skip
            acc_2 = tl.dot(tile, tl.trans(part_2), acc_2, input_precision=precision)
    if HAS_NORM:
        q = tl.arange(0, BLOCK_Q)
        found = tl.load(
            squares_in + q[:, None] * rows + b[None, :],
            mask=(q < num_squares)[:, None] & is_b[None, :], other=0.0,
        )  # fmt: skip
        by_row = tl.rsqrt(tl.sum(found, 0) / width + eps)[:, None]
        acc *= by_row
        acc_2 *= by_row
    if KIND == "swiglu":
        acc = acc * tl.sigmoid(acc) * acc_2
    acc *= scale
    at = b[:, None] * out_stride + out_n[None, :]
    is_out = is_b[:, None] & is_n[None, :]
    if HAS_RES:
        acc += tl.load(res + at, mask=is_out, other=0.0).to(tl.float32)
    for piece in tl.static_range(NUM_MORE):
        acc += tl.load(more + piece * rows * out_stride + at, mask=is_out, other=0.0)
    said = acc.to(out.dtype.element_ty)
    tl.store(out + at, said, mask=is_out)
    if HAS_GAIN:
        if is_first:
            wide = said.to(tl.float32)
            gains = tl.load(gain + n, mask=is_n, other=0.0).to(tl.float32)
            tl.store(out_unit + at, (wide * gains[None, :]).to(out.dtype.element_ty), mask=is_out)
            wide = tl.where(is_out, wide, 0.0)
            tl.store(squares_out + pid * rows + b, tl.sum(wide * wide, 1), mask=is_b)


@triton.jit
def unit_rows(
    x, gain, out, width, x_stride, eps, scale, BLOCK_K: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """A norm of its own, for products that are not ours."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row, k = tl.program_id(0), tl.arange(0, BLOCK_K)
    is_k = k < width
    wide = tl.load(x + row * x_stride + k, mask=is_k, other=0.0).to(tl.float32)
    gains = tl.load(gain + k, mask=is_k, other=0.0).to(tl.float32)
    wide = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + eps) * gains * scale
    tl.store(out + row * width + k, wide.to(out.dtype.element_ty), mask=is_k)


@triton.jit
def swiglu_rows(gate, up, out, num, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """`silu(gate) * up`."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(gate + at, mask=at < num, other=0.0).to(tl.float32)
    z = tl.load(up + at, mask=at < num, other=0.0).to(tl.float32)
    tl.store(out + at, (a * tl.sigmoid(a) * z).to(out.dtype.element_ty), mask=at < num)


@triton.jit
def add_pieces(
    out, pieces, num, NUM_PIECES: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Add what the shares of the experts said."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.load(out + at, mask=at < num, other=0.0).to(tl.float32)
    for piece in tl.static_range(NUM_PIECES):
        acc += tl.load(pieces + piece * num + at, mask=at < num, other=0.0)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=at < num)


@triton.jit
def sample(
    logits, temperature, uniforms, tokens, log_probs, ids, positions, limits, steps,
    rows, words, BLOCK: tl.constexpr,
):  # fmt: skip
    """Draw a row's token as `_sampling.draw` does, write it down, and move on to the next step."""
    row, w = tl.program_id(0), tl.arange(0, BLOCK)
    of_row = logits + row.to(tl.int64) * words
    step = tl.load(steps + row)
    heat = tl.load(temperature + row)
    by = 1.0 / tl.where(heat > 0, heat, 1.0)
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    total_hot = tl.full([], 0.0, tl.float32)
    token = tl.full([], 0, tl.int32)
    for start in range(0, words, BLOCK):
        x = tl.load(of_row + start + w, mask=start + w < words, other=float("-inf"))
        high = tl.max(x, 0)
        token = tl.where(high > top, start + tl.argmax(x, 0), token)
        higher = tl.maximum(top, high)
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        hot = tl.sum(tl.exp((x - higher) * by), 0)
        total_hot = total_hot * tl.exp((top - higher) * by) + hot
        top = higher
    if heat > 0:
        target = tl.load(uniforms + step * rows + row) * total_hot
        before = tl.full([], 0.0, tl.float32)
        count = tl.full([], 0, tl.int32)
        last = tl.full([], 0, tl.int32)
        for start in range(0, words, BLOCK):
            is_w = start + w < words
            x = tl.load(of_row + start + w, mask=is_w, other=float("-inf"))
            mass = tl.exp((x - top) * by)
            ends = tl.cumsum(mass, 0) + before
            count += tl.sum(((ends <= target) & is_w).to(tl.int32), 0)
            last = tl.maximum(last, tl.max(tl.where(mass > 0, start + w, 0), 0))
            before += tl.sum(mass, 0)
        token = tl.minimum(count, last)
    log_prob = tl.load(of_row + token) - top - tl.log(total)
    tl.store(tokens + step * rows + row, token.to(tl.int64))
    tl.store(log_probs + step * rows + row, log_prob)
    tl.store(ids + row, token.to(tl.int64))
    tl.store(positions + row, tl.minimum(tl.load(positions + row) + 1, tl.load(limits + row)))
    tl.store(steps + row, step + 1)
