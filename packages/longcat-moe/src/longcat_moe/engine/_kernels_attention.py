"""Triton kernels of one decoding step: latent attention over a paged cache. See `_kernels`.

Dimension key: B rows, H heads, N content width of a head, R rotary width, V value width, C latent
width, S keys.
"""

# Triton's language is compiled from this text; it only looks like Python.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false, reportOptionalMemberAccess=false, reportMissingImports=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def absorb(
    q, kv, up, gain, cos, sin, positions, table, store, q_out,
    rows, kv_stride, kv_offset, eps, scale_kv, softmax_scale, table_width, block_size,
    H: tl.constexpr, N: tl.constexpr, R: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    ALL_C: tl.constexpr, BLOCK_R: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Queries into the latents' space, turned; the new latent into the cache."""
    pid = tl.program_id(0)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    num_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    half: tl.constexpr = R // 2
    r = tl.arange(0, BLOCK_R)
    is_r = r < half
    if pid < H * num_c:
        h, b = pid // num_c, tl.arange(0, BLOCK_B)
        is_b = b < rows
        n, c = tl.arange(0, BLOCK_N), (pid % num_c) * BLOCK_C + tl.arange(0, BLOCK_C)
        matrix = tl.load(
            up + (h * (N + V) + n)[:, None] * C + c[None, :],
            mask=(n < N)[:, None] & (c < C)[None, :], other=0.0,
        )  # fmt: skip
        if PDL:
            tl.extra.cuda.gdc_launch_dependents()
            tl.extra.cuda.gdc_wait()
        of_head = q + b[:, None] * (H * (N + R)) + h * (N + R)
        part = tl.load(of_head + n[None, :], mask=is_b[:, None] & (n < N)[None, :], other=0.0)
        acc = tl.dot(part, matrix, input_precision=precision) * softmax_scale
        to = q_out + (b[:, None] * H + h) * (C + R)
        kind = q_out.dtype.element_ty
        tl.store(to + c[None, :], acc.to(kind), mask=is_b[:, None] & (c < C)[None, :])
        if pid % num_c == 0:
            is_br = is_b[:, None] & is_r[None, :]
            at = tl.load(positions + b, mask=is_b, other=0)[:, None] * half + r[None, :]
            by_cos = tl.load(cos + at, mask=is_br, other=0.0)
            by_sin = tl.load(sin + at, mask=is_br, other=0.0)
            even = tl.load(of_head + N + 2 * r[None, :], mask=is_br, other=0.0).to(tl.float32)
            odd = tl.load(of_head + N + 2 * r[None, :] + 1, mask=is_br, other=0.0).to(tl.float32)
            first = (even * by_cos - odd * by_sin) * softmax_scale
            second = (odd * by_cos + even * by_sin) * softmax_scale
            tl.store(to + C + r[None, :], first.to(kind), mask=is_br)
            tl.store(to + C + half + r[None, :], second.to(kind), mask=is_br)
    else:
        if PDL:
            tl.extra.cuda.gdc_launch_dependents()
            tl.extra.cuda.gdc_wait()
        row = pid - H * num_c
        here = tl.load(positions + row)
        block = tl.load(table + row * table_width + here // block_size)
        place = store + (block * block_size + here % block_size) * (C + R)
        all_c = tl.arange(0, ALL_C)
        is_c = all_c < C
        key = kv + row * kv_stride + kv_offset
        latent = tl.load(key + all_c, mask=is_c, other=0.0).to(tl.float32)
        gains = tl.load(gain + all_c, mask=is_c, other=0.0).to(tl.float32)
        latent = latent * tl.rsqrt(tl.sum(latent * latent, 0) / C + eps) * gains * scale_kv
        tl.store(place + all_c, latent.to(store.dtype.element_ty), mask=is_c)
        row_cos = tl.load(cos + here * half + r, mask=is_r, other=0.0)
        row_sin = tl.load(sin + here * half + r, mask=is_r, other=0.0)
        a = tl.load(key + C + 2 * r, mask=is_r, other=0.0).to(tl.float32)
        z = tl.load(key + C + 2 * r + 1, mask=is_r, other=0.0).to(tl.float32)
        turned = a * row_cos - z * row_sin
        tl.store(place + C + r, turned.to(store.dtype.element_ty), mask=is_r)
        turned = z * row_cos + a * row_sin
        tl.store(place + C + half + r, turned.to(store.dtype.element_ty), mask=is_r)


@triton.jit
def attend(
    q, store, table, positions, seen, tops, sums,
    table_width, block_size,
    H: tl.constexpr, R: tl.constexpr, C: tl.constexpr, SPLITS: tl.constexpr, IS_EXACT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """A part of one row's keys, for some of its heads: unnormalised, with maximum and sum."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row, split = tl.program_id(0), tl.program_id(1)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    length = tl.load(positions + row) + 1
    share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_S) * BLOCK_S
    begin = split * share
    end = tl.minimum(begin + share, length)
    h = tl.program_id(2) * BLOCK_H + tl.arange(0, BLOCK_H)
    c, r, s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_S)
    is_h, is_c, is_r = h < H, c < C, r < R
    of_row = q + (row * H + h)[:, None] * (C + R)
    q_c = tl.load(of_row + c[None, :], mask=is_h[:, None] & is_c[None, :], other=0.0)
    q_r = tl.load(of_row + C + r[None, :], mask=is_h[:, None] & is_r[None, :], other=0.0)
    top = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    acc = tl.zeros((BLOCK_H, BLOCK_C), tl.float32)
    for start in range(begin, end, BLOCK_S):
        key = start + s
        is_key = key < end
        block = tl.load(table + row * table_width + key // block_size, mask=is_key, other=0)
        at = store + (block * block_size + key % block_size)[:, None] * (C + R)
        k_c = tl.load(at + c[None, :], mask=is_key[:, None] & is_c[None, :], other=0.0)
        k_r = tl.load(at + C + r[None, :], mask=is_key[:, None] & is_r[None, :], other=0.0)
        scores = tl.dot(q_c, tl.trans(k_c), input_precision=precision)
        scores = tl.dot(q_r, tl.trans(k_r), scores, input_precision=precision)
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        keep = tl.exp(top - higher)
        total = total * keep + tl.sum(weights, 1)
        acc = tl.dot(weights.to(k_c.dtype), k_c, acc * keep[:, None], input_precision=precision)
        top = higher
    place = (row * SPLITS + split) * H + h
    tl.store(tops + place, top, mask=is_h)
    tl.store(sums + place, total, mask=is_h)
    tl.store(seen + place[:, None] * C + c[None, :], acc, mask=is_h[:, None] & is_c[None, :])


@triton.jit
def combine(
    seen, tops, sums, up, out,
    rows,
    H: tl.constexpr, N: tl.constexpr, V: tl.constexpr, C: tl.constexpr, SPLITS: tl.constexpr,
    IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Join the parts of `attend`, and take values out of the latents' space."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    h = tl.program_id(0)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    v, b = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_B)
    is_b, is_v = b < rows, v < V
    top = tl.full((BLOCK_B,), float("-inf"), tl.float32)
    for split in tl.static_range(SPLITS):
        place = (b * SPLITS + split) * H + h
        top = tl.maximum(top, tl.load(tops + place, mask=is_b, other=0.0))
    total = tl.zeros((BLOCK_B,), tl.float32)
    for split in tl.static_range(SPLITS):
        place = (b * SPLITS + split) * H + h
        part = tl.exp(tl.load(tops + place, mask=is_b, other=0.0) - top)
        total += part * tl.load(sums + place, mask=is_b, other=1.0)
    acc = tl.zeros((BLOCK_B, BLOCK_V), tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        is_c = c < C
        joined = tl.zeros((BLOCK_B, BLOCK_C), tl.float32)
        for split in tl.static_range(SPLITS):
            place = (b * SPLITS + split) * H + h
            part = tl.exp(tl.load(tops + place, mask=is_b, other=0.0) - top) / total
            joined += part[:, None] * tl.load(
                seen + place[:, None] * C + c[None, :],
                mask=is_b[:, None] & is_c[None, :],
                other=0.0,
            )
        matrix = tl.load(
            up + (h * (N + V) + N + v)[:, None] * C + c[None, :],
            mask=is_v[:, None] & is_c[None, :], other=0.0,
        )  # fmt: skip
        acc = tl.dot(joined.to(matrix.dtype), tl.trans(matrix), acc, input_precision=precision)
    at = out + b[:, None] * (H * V) + h * V + v[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=is_b[:, None] & is_v[None, :])
