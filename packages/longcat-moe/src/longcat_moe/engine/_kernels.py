"""Triton kernels of one decoding step: few rows, every weight read once, nothing small in between.

- Rows are padded to one tile of 16 or more; a tile of all rows meets each block of a matrix once.
- A norm costs no pass of its own: rows are multiplied by the gain on the way in, and the product by
  `1 / rms` on the way out. The router alone rounds as the model does, so that it chooses the same.
- No atomic additions: the same inputs give the same bits.

Dimension key: B rows, D model width, H heads, N content width of a head, R rotary width, V value width,
C latent width, L = C + R, E experts, I expert width.
"""

# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def linear(
    x, gain, w, w_2, res, more, out,
    rows, num, num_2, width, x_stride, out_stride, eps, scale,
    HAS_NORM: tl.constexpr, KIND: tl.constexpr, HAS_RES: tl.constexpr, NUM_MORE: tl.constexpr,
    IS_EXACT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`norm(x) @ w.T`; with `swiglu` that of two matrices, with `pair` two side by side."""
    pid = tl.program_id(0)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    b = tl.arange(0, BLOCK_B)
    is_b = b < rows
    k = tl.arange(0, BLOCK_K)
    n = pid * BLOCK_N + tl.arange(0, BLOCK_N)
    out_n, is_n, matrix = n, n < num, w
    if KIND == "pair":
        first = tl.cdiv(num, BLOCK_N)
        if pid >= first:
            matrix = w_2
            n = (pid - first) * BLOCK_N + tl.arange(0, BLOCK_N)
            out_n, is_n = num + n, n < num_2
    acc = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
    acc_2 = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
    squares = tl.zeros((BLOCK_B,), tl.float32)
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
        if HAS_NORM:
            wide = tile.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            by = tl.load(gain + at, mask=is_k, other=0.0).to(tl.float32)
            tile = (wide * by[None, :]).to(part.dtype)
        acc = tl.dot(tile, tl.trans(part), acc, input_precision=precision)
        if KIND == "swiglu":
            part_2 = tl.load(
                w_2 + n[:, None].to(tl.int64) * width + at[None, :],
                mask=is_n[:, None] & is_k[None, :], other=0.0,
            )  # fmt: skip
            acc_2 = tl.dot(tile, tl.trans(part_2), acc_2, input_precision=precision)
    if HAS_NORM:
        by_row = tl.rsqrt(squares / width + eps)[:, None]
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
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=is_out)


@triton.jit
def absorb(
    q, kv, up, gain, cos, sin, positions, table, store, q_out,
    rows, kv_stride, kv_offset, eps, scale_kv, softmax_scale, table_width, block_size,
    H: tl.constexpr, N: tl.constexpr, R: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    ALL_C: tl.constexpr, BLOCK_R: tl.constexpr,
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
        of_head = q + b[:, None] * (H * (N + R)) + h * (N + R)
        part = tl.load(of_head + n[None, :], mask=is_b[:, None] & (n < N)[None, :], other=0.0)
        matrix = tl.load(
            up + (h * (N + V) + n)[:, None] * C + c[None, :],
            mask=(n < N)[:, None] & (c < C)[None, :], other=0.0,
        )  # fmt: skip
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
):  # fmt: skip
    """A part of one row's keys, for some of its heads: unnormalised, with maximum and sum."""
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
        acc = tl.dot(
            weights.to(k_c.dtype), k_c, acc * keep[:, None], input_precision=precision
        )
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
):  # fmt: skip
    """Join the parts of `attend`, and take values out of the latents' space."""
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
                seen + place[:, None] * C + c[None, :], mask=is_b[:, None] & is_c[None, :], other=0.0
            )
        matrix = tl.load(
            up + (h * (N + V) + N + v)[:, None] * C + c[None, :],
            mask=is_v[:, None] & is_c[None, :], other=0.0,
        )  # fmt: skip
        acc = tl.dot(joined.to(matrix.dtype), tl.trans(matrix), acc, input_precision=precision)
    at = out + b[:, None] * (H * V) + h * V + v[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=is_b[:, None] & is_v[None, :])


@triton.jit
def route(
    x, gain, classifier, logits, normed,
    rows, width, num_experts, eps,
    BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One expert's logit for all rows, in float32, from states rounded as the model rounds them."""
    expert, b = tl.program_id(0), tl.arange(0, BLOCK_B)
    is_b, k = b < rows, tl.arange(0, BLOCK_K)
    squares = tl.zeros((BLOCK_B,), tl.float32)
    for start in range(0, width, BLOCK_K):
        mask = is_b[:, None] & (start + k < width)[None, :]
        tile = tl.load(x + b[:, None] * width + start + k[None, :], mask=mask, other=0.0)
        wide = tile.to(tl.float32)
        squares += tl.sum(wide * wide, 1)
    by_row = tl.rsqrt(squares / width + eps)[:, None]
    acc = tl.zeros((BLOCK_B,), tl.float32)
    for start in range(0, width, BLOCK_K):
        is_k = start + k < width
        mask = is_b[:, None] & is_k[None, :]
        tile = tl.load(x + b[:, None] * width + start + k[None, :], mask=mask, other=0.0)
        by = tl.load(gain + start + k, mask=is_k, other=0.0).to(tl.float32)
        unit = (tile.to(tl.float32) * by_row).to(tile.dtype).to(tl.float32)
        unit = (unit * by[None, :]).to(tile.dtype)
        if expert == 0:
            tl.store(normed + b[:, None] * width + start + k[None, :], unit, mask=mask)
        weights = tl.load(classifier + expert * width + start + k, mask=is_k, other=0.0)
        acc += tl.sum(unit.to(tl.float32) * weights.to(tl.float32)[None, :], 1)
    tl.store(logits + b * num_experts + expert, acc, mask=is_b)


@triton.jit
def experts_up(
    x, logits, bias, gate_up, act, weights,
    rows, width, scaling,
    E: tl.constexpr, NUM_FFN: tl.constexpr, TOP_K: tl.constexpr, I: tl.constexpr,  # noqa: E741
    IS_EXACT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_I: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Some columns of one expert, if anybody chose it; and what each row weighs each expert."""
    expert, block = tl.program_id(0), tl.program_id(1)
    precision: tl.constexpr = "ieee" if IS_EXACT else "tf32"
    b, e = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_E)
    is_b, is_e = b < rows, e < E
    said = tl.load(
        logits + b[:, None] * E + e[None, :], mask=is_b[:, None] & is_e[None, :], other=0.0
    )
    said = tl.where(is_e[None, :], said, float("-inf"))
    scores = tl.exp(said - tl.max(said, 1)[:, None])
    scores = scores / tl.sum(scores, 1)[:, None]
    biased = scores + tl.load(bias + e, mask=is_e, other=0.0).to(tl.float32)[None, :]
    biased = tl.where(is_e[None, :], biased, float("-inf"))
    chosen = tl.zeros((BLOCK_B, BLOCK_E), tl.float32)
    for _ in tl.static_range(TOP_K):
        is_best = e[None, :] == tl.argmax(biased, 1)[:, None]
        chosen = tl.where(is_best, scores, chosen)
        biased = tl.where(is_best, float("-inf"), biased)
    mine = tl.sum(tl.where(e[None, :] == expert, chosen, 0.0), 1) * scaling
    mine = tl.where(is_b, mine, 0.0)
    if block == 0:
        tl.store(weights + expert * rows + b, mine, mask=is_b)
        if expert == 0:
            rest = tl.sum(tl.where(e[None, :] >= NUM_FFN, chosen, 0.0), 1) * scaling
            tl.store(weights + NUM_FFN * rows + b, rest, mask=is_b)
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
):  # fmt: skip
    """Some columns of what a share of the experts say, weighed; the first share has the identities."""
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
