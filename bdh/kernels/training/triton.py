"""Triton programs of the forward pass; importing this file needs triton. The same in plain torch: `fused_forms`.

Tiles are exact: the caller pads tokens and chooses tiles that divide every size, so nothing is masked.
Rotary pairs are neighbouring neurons. R rows (tokens of all streams), T tokens per stream, D
embedding, H heads, N neurons per head, HN = H*N columns; capital constants with a B are sizes of tiles.

Triton programs of the backward pass; importing this file needs triton. Conventions as in `fused_kernels`.

Triton programs for rows of D values between the large steps: norms forward and back, with the sums before them.

Importing this file needs triton. The same in plain torch, with all descriptions: `fused_forms_rows`. BM rows per
program.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False


INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, acc):
    """acc + a b, float32 sums. (The interpreter cannot multiply bfloat16.)"""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a, b, acc)


@triton.jit
def rounds(z):
    """Two multiply-xorshift rounds on uint32."""
    z = (z ^ (z >> 16)) * 0x7FEB352D
    return (z ^ (z >> 15)) * 0x846CA68B


@triton.jit
def keys(index, step: tl.constexpr, seed):
    """The hash of index and seed; see `fused_dropout`."""
    z = rounds(index.to(tl.uint32) * step + seed.to(tl.uint32))
    return z ^ (z >> 16)


@triton.jit
def kept(row_keys, pair_keys, BM: tl.constexpr, BN: tl.constexpr, THRESHOLD: tl.constexpr):
    """Whether the BN neurons (half as many pairs) of the BM tokens survive dropout."""
    z = rounds(row_keys[:, None] + pair_keys[None, :])
    draws = tl.join(z >> 16, (z ^ (z >> 16)) & 0xFFFF)
    return tl.reshape(draws, (BM, BN)).to(tl.int32) >= THRESHOLD


@triton.jit
def turned(x, turn, SENSE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """The pairs of x (BM,BN) turned by angles whose cosine and sine stand at the places of their neurons in `turn`."""
    even, odd = tl.split(tl.reshape(x, (BM, BN // 2, 2)))
    cos, sin = tl.split(tl.reshape(turn.to(tl.float32), (BM, BN // 2, 2)))
    sin = sin * SENSE
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), (BM, BN))


@triton.jit
def encode_kernel(
    v_ptr, e_ptr, turns_ptr, before_ptr, x_ptr, q_ptr, sums_ptr, T,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BEFORE: tl.constexpr, SIGNED: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """x = relu(v E) and q = rope(x) for BM tokens and BN neurons; see `fused_forms.encode`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    v = v_ptr + row0.to(tl.int64) * D + r[:, None] * D + k[None, :]
    e = e_ptr + column + k[:, None] * HN + c[None, :]
    x = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, D, BK):
        x = dot(tl.load(v), tl.load(e), x)
        v += BK
        e += BK * HN
    gained = tl.maximum(x, 0.0)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    x = gained
    if BEFORE:
        x += tl.abs(tl.load(before_ptr + at).to(tl.float32))
    if SIGNED:
        x = tl.where(gained > 0.0, -x, x)
    signed = x.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + at, signed)
    x = tl.abs(signed.to(tl.float32))
    turn = tl.load(turns_ptr + (row0 % T) * N + column % N + r[:, None] * N + c[None, :])
    tl.store(q_ptr + at, turned(x, turn, 1.0, BM, BN).to(q_ptr.dtype.element_ty))
    if SUMS:
        tl.store(sums_ptr + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(x))


@triton.jit
def rotate_kernel(
    x_ptr, turns_ptr, q_ptr, sums_ptr, T,
    N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """q = rope(|x|) for BM tokens and BN neurons, the second half of `fused_forms.encode`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    x = tl.abs(tl.load(x_ptr + at).to(tl.float32))
    turn = tl.load(turns_ptr + (row0 % T) * N + column % N + r[:, None] * N + c[None, :])
    tl.store(q_ptr + at, turned(x, turn, 1.0, BM, BN).to(q_ptr.dtype.element_ty))
    if SUMS:
        tl.store(sums_ptr + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(x))


@triton.jit
def scores_kernel(
    q_ptr, s_ptr, C: tl.constexpr, H: tl.constexpr, N: tl.constexpr, HN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile of tril(q q^T, -1) of a segment of C tokens and a head; see `fused_forms.scores`."""
    across = C // BN
    i0, j0 = (tl.program_id(0) // across) * BM, (tl.program_id(0) % across) * BN
    segment, h = tl.program_id(1) // H, tl.program_id(1) % H
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    base = q_ptr + segment.to(tl.int64) * C * HN + h * N
    left = base + i0.to(tl.int64) * HN + r[:, None] * HN + k[None, :]
    right = base + j0.to(tl.int64) * HN + c[None, :] * HN + k[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    if j0 < i0 + BM:
        for _ in range(0, N, BK):
            acc = dot(tl.load(left), tl.load(right), acc)
            left += BK
            right += BK
    acc = tl.where(i0 + r[:, None] > j0 + c[None, :], acc, 0.0)
    at = tl.program_id(1).to(tl.int64) * C * C + (i0 + r[:, None]) * C + j0 + c[None, :]
    tl.store(s_ptr + at, acc.to(s_ptr.dtype.element_ty))


@triton.jit
def gate_kernel(
    x_ptr, a_ptr, v_ptr, g_ptr, R, draw_ptr, scale,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    THRESHOLD: tl.constexpr,
):  # fmt: skip
    """g = |x| relu(a V) m for BM tokens and BN neurons; see `fused_forms.gate`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    h = column // N
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    a = a_ptr + (h.to(tl.int64) * R + row0) * D + r[:, None] * D + k[None, :]
    v = v_ptr + column + k[:, None] * HN + c[None, :]
    y = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, D, BK):
        y = dot(tl.load(a), tl.load(v), y)
        a += BK
        v += BK * HN
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    g = tl.maximum(y, 0.0) * tl.abs(tl.load(x_ptr + at).to(tl.float32))
    if THRESHOLD > 0:
        seed, first_row = tl.load(draw_ptr), tl.load(draw_ptr + 1)
        pair = column // 2 + tl.arange(0, BN // 2)
        row_keys, pair_keys = keys(first_row + row0 + r, 0x9E3779B1, seed), keys(pair, 0x85EBCA77, seed)
        alive = kept(row_keys, pair_keys, BM, BN, THRESHOLD)
        g = tl.where(alive, g * scale, 0.0)
    tl.store(g_ptr + at, g.to(g_ptr.dtype.element_ty))


@triton.jit
def states_kernel(
    q_ptr, u_ptr, rho_ptr, stream_stride, head_stride, C: tl.constexpr, SEGMENTS: tl.constexpr,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """The state of BM neurons before (or, BACKWARD, behind) each segment of a stream; see `fused_forms.states`."""
    column, stream = tl.program_id(0) * BM, tl.program_id(1)
    n, d, k = tl.arange(0, BM), tl.arange(0, D), tl.arange(0, BK)
    first = stream.to(tl.int64) * SEGMENTS
    u_base = u_ptr + stream.to(tl.int64) * stream_stride + (column // N).to(tl.int64) * head_stride
    acc = tl.zeros((BM, D), tl.float32)
    for step in range(0, SEGMENTS):
        segment = SEGMENTS - 1 - step if BACKWARD else step
        at = ((first + segment) * HN + column) * D + n[:, None] * D + d[None, :]
        tl.store(rho_ptr + at, acc.to(rho_ptr.dtype.element_ty))
        row = segment * C
        for offset in range(0, C, BK):
            q = tl.load(q_ptr + (first * C + row + offset) * HN + column + k[:, None] * HN + n[None, :])
            u = tl.load(u_base + (row + offset) * D + k[:, None] * D + d[None, :])
            acc = dot(tl.trans(q), u, acc)


# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False


@triton.jit
def gradient_kernel(
    x_ptr, g_ptr, dy_ptr, w_ptr, dys_ptr, dx_ptr, scale,
    D: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, MARK: tl.constexpr,
):  # fmt: skip
    """The gradients of relu(a V) and of x for BM tokens and BN neurons; see `fused_forms.gradient`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    dy = dy_ptr + row0.to(tl.int64) * D + r[:, None] * D + k[None, :]
    w = w_ptr + column.to(tl.int64) * D + c[None, :] * D + k[:, None]
    dg = tl.zeros((BM, BN), tl.float32)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    x = tl.load(x_ptr + at)
    for _ in range(0, D, BK):
        dg = dot(tl.load(dy), tl.load(w), dg)
        dy += BK
        w += BK
    x = tl.abs(x.to(tl.float32))
    g = tl.load(g_ptr + at).to(tl.float32)
    live = g > 0.0
    tl.store(dys_ptr + at, tl.where(live, dg * x * scale, 0.0).to(dys_ptr.dtype.element_ty))
    dx = tl.where(live, dg * (g / tl.maximum(x, 1e-37)), 0.0)
    if MARK:
        dx = tl.where(x > 0.0, dx, float("nan"))
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty))


@triton.jit
def pairs_kernel(
    da_ptr, v_ptr, p_ptr, R, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """One tile of dS + dS^T, dS = tril(dA v^T, -1), of a segment and a head; see `fused_forms.pairs`."""
    across = C // BN
    i0, j0 = (tl.program_id(0) // across) * BM, (tl.program_id(0) % across) * BN
    segment, h = tl.program_id(1) // H, tl.program_id(1) % H
    r, c, d = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, D)
    da = da_ptr + (h.to(tl.int64) * R + segment * C) * D
    v = v_ptr + segment.to(tl.int64) * C * D
    rows, columns = (i0 + r)[:, None] * D + d[None, :], (j0 + c)[None, :] * D + d[:, None]
    lower = dot(tl.load(da + rows), tl.load(v + columns), tl.zeros((BM, BN), tl.float32))
    upper = dot(tl.load(v + rows), tl.load(da + columns), tl.zeros((BM, BN), tl.float32))
    i, j = i0 + r[:, None], j0 + c[None, :]
    p = tl.where(i > j, lower, tl.where(i < j, upper, 0.0))
    at = tl.program_id(1).to(tl.int64) * C * C + i * C + j
    tl.store(p_ptr + at, p.to(p_ptr.dtype.element_ty))


@triton.jit
def turn_back_kernel(
    dq_ptr, dx_ptr, turns_ptr, l1_ptr, x_ptr, carry_ptr, row_start, column_start, T,
    N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    L1: tl.constexpr, CARRY: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """dx <- [x>0] (rope^-1(dq) + dx + l1) for BM tokens and BN neurons of a head; see `fused_forms.activity`.

    dq holds one head (rows, N) from `row_start` on; the other tensors hold all (R,HN).
    """
    row, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    row0 = row_start + row
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    dq = tl.load(dq_ptr + row.to(tl.int64) * N + n + r[:, None] * N + c[None, :]).to(tl.float32)
    turn = tl.load(turns_ptr + (row0 % T) * N + n + r[:, None] * N + c[None, :])
    at = row0.to(tl.int64) * HN + column_start + n + r[:, None] * HN + c[None, :]
    direct = tl.load(dx_ptr + at).to(tl.float32)
    total = turned(dq, turn, -1.0, BM, BN) + direct
    if L1:
        total += tl.load(l1_ptr)
    if CARRY:
        if not FIRST:
            total += tl.load(carry_ptr + at).to(tl.float32)
        tl.store(carry_ptr + at, total.to(carry_ptr.dtype.element_ty))
        total = tl.where(tl.load(x_ptr + at) < 0.0, total, 0.0)
    else:
        total = tl.where(direct == direct, total, 0.0)
    tl.store(dx_ptr + at, total.to(dx_ptr.dtype.element_ty))


@triton.jit
def loss_kernel(logits_ptr, targets_ptr, losses_ptr, scale, V: tl.constexpr, STRIDE: tl.constexpr, BN: tl.constexpr):
    """Cross-entropy of one token; its logits become their gradients times `scale`; see `fused_forms.loss`."""
    row = tl.program_id(0)
    logits = logits_ptr + row.to(tl.int64) * STRIDE
    c = tl.arange(0, BN)
    target = tl.load(targets_ptr + row)
    chosen = tl.load(logits + target).to(tl.float32)
    top = tl.full((BN,), float("-inf"), tl.float32)
    mass = tl.zeros((BN,), tl.float32)
    for start in range(0, V, BN):
        z = tl.load(logits + start + c, mask=start + c < V, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, z)
        shift = tl.where(new == float("-inf"), 0.0, new)
        mass = mass * tl.exp(top - shift) + tl.exp(z - shift)
        top = new
    highest = tl.max(top, 0)
    log_sum = tl.log(tl.sum(mass * tl.exp(top - highest), 0)) + highest
    tl.store(losses_ptr + row, log_sum - chosen)
    for start in range(0, STRIDE, BN):
        inside = start + c < V
        z = tl.load(logits + start + c, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = (tl.exp(z - log_sum) - tl.where(start + c == target, 1.0, 0.0)) * scale
        tl.store(logits + start + c, gradient.to(logits_ptr.dtype.element_ty), mask=start + c < STRIDE)


# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False


EPSILON = tl.constexpr(1e-5)


@triton.jit
def normal(x, D: tl.constexpr):
    """Rows with mean 0 and variance 1, and what they were multiplied with."""
    centred = x - (tl.sum(x, 1) / D)[:, None]
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / D + EPSILON)
    return centred * scale[:, None], scale


@triton.jit
def normal_backward(gradient, normed, scale, D: tl.constexpr):
    """The gradient before `normal` from that after it."""
    mean = (tl.sum(gradient, 1) / D)[:, None]
    along = (tl.sum(gradient * normed, 1) / D)[:, None]
    return (gradient - mean - normed * along) * scale[:, None]


@triton.jit
def settle_kernel(
    reads_ptr, a_ptr, scale_ptr, R, a_stride, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BM: tl.constexpr
):
    """See `fused_forms_rows.settle`."""
    row, h = tl.program_id(0) * BM, tl.program_id(1)
    r, d = tl.arange(0, BM), tl.arange(0, D)
    source = ((row // C) * H + h) * C + row % C
    x = tl.load(reads_ptr + source.to(tl.int64) * D + r[:, None] * D + d[None, :])
    a, scale = normal(x, D)
    at = h.to(tl.int64) * a_stride + row * D + r[:, None] * D + d[None, :]
    tl.store(a_ptr + at, a.to(a_ptr.dtype.element_ty))
    tl.store(scale_ptr + h * R + row + r, scale)


@triton.jit
def settle_backward_kernel(gradient_ptr, a_ptr, scale_ptr, da_ptr, R, a_stride, D: tl.constexpr, BM: tl.constexpr):
    """See `fused_forms_rows.settle_backward`."""
    row, h = tl.program_id(0) * BM, tl.program_id(1)
    r, d = tl.arange(0, BM), tl.arange(0, D)
    own = h.to(tl.int64) * R * D + row * D + r[:, None] * D + d[None, :]
    gradient = tl.load(gradient_ptr + own).to(tl.float32)
    a = tl.load(a_ptr + h.to(tl.int64) * a_stride + row * D + r[:, None] * D + d[None, :]).to(tl.float32)
    scale = tl.load(scale_ptr + h * R + row + r)
    tl.store(da_ptr + own, normal_backward(gradient, a, scale, D).to(da_ptr.dtype.element_ty))


@triton.jit
def answer_kernel(
    parts_ptr, u_ptr, y_ptr, after_ptr, v_ptr, y_scale_ptr, after_scale_ptr, R,
    PARTS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """See `fused_forms_rows.answer`."""
    row = tl.program_id(0) * BM
    r, d = tl.arange(0, BM), tl.arange(0, D)
    at = row.to(tl.int64) * D + r[:, None] * D + d[None, :]
    y = tl.zeros((BM, D), tl.float32)
    for part in tl.static_range(PARTS):
        y += tl.load(parts_ptr + part * (R.to(tl.int64) * D) + at)
    y, scale = normal(y, D)
    tl.store(y_scale_ptr + row + r, scale)
    if RESIDUAL:
        tl.store(y_ptr + at, y)
        y, scale = normal(y + tl.load(u_ptr + at), D)
        tl.store(after_scale_ptr + row + r, scale)
    tl.store(after_ptr + at, y)
    tl.store(v_ptr + at, y.to(v_ptr.dtype.element_ty))


@triton.jit
def answer_backward_kernel(
    du_ptr, parts_ptr, reads_ptr, y_ptr, after_ptr, y_scale_ptr, after_scale_ptr, dv_ptr, dy_ptr, R,
    PARTS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """See `fused_forms_rows.answer_backward`."""
    row = tl.program_id(0) * BM
    r, d = tl.arange(0, BM), tl.arange(0, D)
    at = row.to(tl.int64) * D + r[:, None] * D + d[None, :]
    gradient = tl.load(du_ptr + at)
    if PARTS > 0:
        gradient += tl.load(reads_ptr + at)
        for part in tl.static_range(PARTS):
            gradient += tl.load(parts_ptr + part * (R.to(tl.int64) * D) + at)
    if RESIDUAL:
        gradient = normal_backward(gradient, tl.load(after_ptr + at), tl.load(after_scale_ptr + row + r), D)
        tl.store(dv_ptr + at, gradient)
    gradient = normal_backward(gradient, tl.load(y_ptr + at), tl.load(y_scale_ptr + row + r), D)
    tl.store(dy_ptr + at, gradient.to(dy_ptr.dtype.element_ty))
