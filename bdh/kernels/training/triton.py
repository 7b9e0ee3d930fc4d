"""Triton programs for the large steps of a layer, forward and back; importing this file needs triton.

The same in plain torch, with all descriptions: `reference`. Launched by `launch`. Every program makes one tile of its
output, BM rows (tokens) by BN columns (neurons); programs with a sum walk over it BK at a time. Tiles are exact: the
caller pads tokens and chooses tiles that divide every size, so nothing is masked. Rotary pairs are neighbouring
columns, so both ends of a pair are in one tile.

R rows (tokens of all streams), T tokens per stream, C tokens per segment, S = R/C segments, D embedding, H heads, N
neurons per head, HN = H*N columns. Operands, all row-major, with the stride of the last dimension 1:

| operand | shape | dtype | |
|---|---|---|---|
| v, dy | R,D | operand | rows before a layer; gradient of its answer |
| a, da | H,R,D | operand | normed reads and their gradient; a may be a slice of all layers: its head stride is passed |
| E, V | D,HN | operand | encoder, encoder_v: a head is N neighbouring columns |
| W | HN,D | operand | decoder |
| x, q, g, dys, dx, before, carry | R,HN | operand | activities, rotated, gated, and gradients |
| dq | rows of some segments, N | operand | one head |
| turns | T,N | float16 for bfloat16 | cosine at the even, sine at the odd neuron of a pair |
| scores s, pairs p | S,H,C,C | operand | of a segment and head |
| rho | S,HN,D | operand | state before (or behind) a segment |
| draw | 2 | int32 | seed and number of the first row, for dropout |
| sums | one per program | float32 | partial sums of x |
| l1 | 1 | float32 | gradient of every activity by the L1 term |

Operand: bfloat16 on a GPU, float32 in tests. Sums are float32.
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
    """The hash of index and seed; see `reference`."""
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
    """x = relu(v E) and q = rope(x) for BM tokens and BN neurons; see `reference.encode`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    # The product v E, BK of the D terms at a time.
    v = v_ptr + row0.to(tl.int64) * D + r[:, None] * D + k[None, :]
    e = e_ptr + column + k[:, None] * HN + c[None, :]
    x = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, D, BK):
        x = dot(tl.load(v), tl.load(e), x)
        v += BK
        e += BK * HN
    # relu, what the layers before have gathered, and the sign bit that tells whether this one adds.
    gained = tl.maximum(x, 0.0)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    x = gained
    if BEFORE:
        x += tl.abs(tl.load(before_ptr + at).to(tl.float32))
    if SIGNED:
        x = tl.where(gained > 0.0, -x, x)
    signed = x.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + at, signed)
    # q = rope(x) of the rounded x, as a backward pass that reads x from memory sees it.
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
    """q = rope(|x|) for BM tokens and BN neurons, the second half of `reference.encode`."""
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
    """One tile of tril(q q^T, -1) of a segment of C tokens and a head; see `reference.scores`."""
    across = C // BN
    i0, j0 = (tl.program_id(0) // across) * BM, (tl.program_id(0) % across) * BN
    segment, h = tl.program_id(1) // H, tl.program_id(1) % H
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    # Keys are queries: left and right are rows of the same q; tiles above the diagonal stay zero without a product.
    base = q_ptr + segment.to(tl.int64) * C * HN + h * N
    left = base + i0.to(tl.int64) * HN + r[:, None] * HN + k[None, :]
    right = base + j0.to(tl.int64) * HN + c[None, :] * HN + k[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    if j0 < i0 + BM:
        for _ in range(0, N, BK):
            acc = dot(tl.load(left), tl.load(right), acc)
            left += BK
            right += BK
    # Strictly causal: the diagonal is zero too.
    acc = tl.where(i0 + r[:, None] > j0 + c[None, :], acc, 0.0)
    at = tl.program_id(1).to(tl.int64) * C * C + (i0 + r[:, None]) * C + j0 + c[None, :]
    tl.store(s_ptr + at, acc.to(s_ptr.dtype.element_ty))


@triton.jit
def gate_kernel(
    x_ptr, a_ptr, v_ptr, g_ptr, R, draw_ptr, scale,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    THRESHOLD: tl.constexpr,
):  # fmt: skip
    """g = |x| relu(a V) m for BM tokens and BN neurons; see `reference.gate`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    h = column // N
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    # The product a V of this head.
    a = a_ptr + (h.to(tl.int64) * R + row0) * D + r[:, None] * D + k[None, :]
    v = v_ptr + column + k[:, None] * HN + c[None, :]
    y = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, D, BK):
        y = dot(tl.load(a), tl.load(v), y)
        a += BK
        v += BK * HN
    # relu and the gate.
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    g = tl.maximum(y, 0.0) * tl.abs(tl.load(x_ptr + at).to(tl.float32))
    # Dropout, decided again from (seed, row, pair) wherever it is wanted.
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
    """The state of BM neurons before (or, BACKWARD, behind) each segment of a stream; see `reference.states`."""
    column, stream = tl.program_id(0) * BM, tl.program_id(1)
    n, d, k = tl.arange(0, BM), tl.arange(0, D), tl.arange(0, BK)
    first = stream.to(tl.int64) * SEGMENTS
    u_base = u_ptr + stream.to(tl.int64) * stream_stride + (column // N).to(tl.int64) * head_stride
    acc = tl.zeros((BM, D), tl.float32)
    for step in range(0, SEGMENTS):
        segment = SEGMENTS - 1 - step if BACKWARD else step
        # Write the state down before the segment adds to it.
        at = ((first + segment) * HN + column) * D + n[:, None] * D + d[None, :]
        tl.store(rho_ptr + at, acc.to(rho_ptr.dtype.element_ty))
        # rho += q^T u over the segment, BK tokens at a time.
        row = segment * C
        for offset in range(0, C, BK):
            q = tl.load(q_ptr + (first * C + row + offset) * HN + column + k[:, None] * HN + n[None, :])
            u = tl.load(u_base + (row + offset) * D + k[:, None] * D + d[None, :])
            acc = dot(tl.trans(q), u, acc)


@triton.jit
def gradient_kernel(
    x_ptr, g_ptr, dy_ptr, w_ptr, dys_ptr, dx_ptr, scale,
    D: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, MARK: tl.constexpr,
):  # fmt: skip
    """The gradients of relu(a V) and of x for BM tokens and BN neurons; see `reference.gradient`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    dy = dy_ptr + row0.to(tl.int64) * D + r[:, None] * D + k[None, :]
    w = w_ptr + column.to(tl.int64) * D + c[None, :] * D + k[:, None]
    dg = tl.zeros((BM, BN), tl.float32)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    x = tl.load(x_ptr + at)
    # dg = dY W^T; x is fetched while the product is under way.
    for _ in range(0, D, BK):
        dg = dot(tl.load(dy), tl.load(w), dg)
        dy += BK
        w += BK
    x = tl.abs(x.to(tl.float32))
    g = tl.load(g_ptr + at).to(tl.float32)
    # Where g is 0 something was dropped or silent: both gradients are 0. Elsewhere relu(a V) m = g / x.
    live = g > 0.0
    tl.store(dys_ptr + at, tl.where(live, dg * x * scale, 0.0).to(dys_ptr.dtype.element_ty))
    dx = tl.where(live, dg * (g / tl.maximum(x, 1e-37)), 0.0)
    # NaN tells `turn_back_kernel` that x was 0, so that it need not read x.
    if MARK:
        dx = tl.where(x > 0.0, dx, float("nan"))
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty))


@triton.jit
def pairs_kernel(
    da_ptr, v_ptr, p_ptr, R, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """One tile of dS + dS^T, dS = tril(dA v^T, -1), of a segment and a head; see `reference.pairs`."""
    across = C // BN
    i0, j0 = (tl.program_id(0) // across) * BM, (tl.program_id(0) % across) * BN
    segment, h = tl.program_id(1) // H, tl.program_id(1) % H
    r, c, d = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, D)
    da = da_ptr + (h.to(tl.int64) * R + segment * C) * D
    v = v_ptr + segment.to(tl.int64) * C * D
    rows, columns = (i0 + r)[:, None] * D + d[None, :], (j0 + c)[None, :] * D + d[:, None]
    # dS below the diagonal, its transpose above: both products are made for every tile, one of them is kept.
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
    """dx <- [x>0] (rope^-1(dq) + dx + l1) for BM tokens and BN neurons of a head; see `reference.activity`.

    dq holds one head (rows, N) from `row_start` on; the other tensors hold all (R,HN).
    """
    row, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    row0 = row_start + row
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    # Turn dq back and add the direct gradient of x and that of the L1 term.
    dq = tl.load(dq_ptr + row.to(tl.int64) * N + n + r[:, None] * N + c[None, :]).to(tl.float32)
    turn = tl.load(turns_ptr + (row0 % T) * N + n + r[:, None] * N + c[None, :])
    at = row0.to(tl.int64) * HN + column_start + n + r[:, None] * HN + c[None, :]
    direct = tl.load(dx_ptr + at).to(tl.float32)
    total = turned(dq, turn, -1.0, BM, BN) + direct
    if L1:
        total += tl.load(l1_ptr)
    # Carried activations: the sum goes on to the layer below, the sign bit of x masks. Otherwise NaN marks x = 0.
    if CARRY:
        if not FIRST:
            total += tl.load(carry_ptr + at).to(tl.float32)
        tl.store(carry_ptr + at, total.to(carry_ptr.dtype.element_ty))
        total = tl.where(tl.load(x_ptr + at) < 0.0, total, 0.0)
    else:
        total = tl.where(direct == direct, total, 0.0)
    tl.store(dx_ptr + at, total.to(dx_ptr.dtype.element_ty))
