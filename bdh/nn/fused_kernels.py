"""Triton programs of the forward pass; importing this file needs triton. The same in plain torch: `fused_forms`.

Tiles are exact: the caller pads tokens and chooses tiles that divide every size, so nothing is masked.
Neurons stand as rotary pairs (n, n + N/2) within a head. R rows (tokens of all streams), T tokens per stream, D
embedding, H heads, N neurons per head, HN = H*N columns; capital constants with a B are sizes of tiles.
"""

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import os

import triton
import triton.language as tl

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
def kept(row_keys, column_keys, THRESHOLD: tl.constexpr):
    """Whether the neurons (columns) of the tokens (rows) survive dropout."""
    z = rounds(row_keys[:, None] + column_keys[None, :])
    return (z >> 8).to(tl.int32) >= THRESHOLD


@triton.jit
def encode_kernel(
    v_ptr, e_ptr, cos_ptr, sin_ptr, before_ptr, x_ptr, q_ptr, sums_ptr, T,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    BEFORE: tl.constexpr, SIGNED: tl.constexpr, STORE_X: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """x = relu(v E) and q = rope(x) for BM tokens and BN pairs; see `fused_forms.encode`."""
    row0, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    column = tl.program_id(2) * N + n
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    v = v_ptr + row0.to(tl.int64) * D + r[:, None] * D + k[None, :]
    e = e_ptr + column + k[:, None] * HN + c[None, :]
    x1 = tl.zeros((BM, BN), tl.float32)
    x2 = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, D, BK):
        rows = tl.load(v)
        x1 = dot(rows, tl.load(e), x1)
        x2 = dot(rows, tl.load(e + N // 2), x2)
        v += BK
        e += BK * HN
    x1, x2 = tl.maximum(x1, 0.0), tl.maximum(x2, 0.0)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    s1, s2 = x1, x2
    if BEFORE:
        s1 += tl.abs(tl.load(before_ptr + at).to(tl.float32))
        s2 += tl.abs(tl.load(before_ptr + at + N // 2).to(tl.float32))
    if SIGNED:
        s1, s2 = tl.where(x1 > 0.0, -s1, s1), tl.where(x2 > 0.0, -s2, s2)
    signed1, signed2 = s1.to(x_ptr.dtype.element_ty), s2.to(x_ptr.dtype.element_ty)
    x1, x2 = tl.abs(signed1.to(tl.float32)), tl.abs(signed2.to(tl.float32))
    if STORE_X:
        tl.store(x_ptr + at, signed1)
        tl.store(x_ptr + at + N // 2, signed2)
    turn = (row0 % T) * (N // 2) + n + r[:, None] * (N // 2) + c[None, :]
    cos, sin = tl.load(cos_ptr + turn).to(tl.float32), tl.load(sin_ptr + turn).to(tl.float32)
    tl.store(q_ptr + at, (x1 * cos - x2 * sin).to(q_ptr.dtype.element_ty))
    tl.store(q_ptr + at + N // 2, (x2 * cos + x1 * sin).to(q_ptr.dtype.element_ty))
    if SUMS:
        program = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
        tl.store(sums_ptr + program, tl.sum(x1) + tl.sum(x2))


@triton.jit
def rotate_kernel(
    x_ptr, cos_ptr, sin_ptr, q_ptr, sums_ptr, T,
    N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """q = rope(|x|) for BM tokens and BN pairs; see `fused_forms.rotate`."""
    row0, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    at = row0.to(tl.int64) * HN + tl.program_id(2) * N + n + r[:, None] * HN + c[None, :]
    x1 = tl.abs(tl.load(x_ptr + at).to(tl.float32))
    x2 = tl.abs(tl.load(x_ptr + at + N // 2).to(tl.float32))
    turn = (row0 % T) * (N // 2) + n + r[:, None] * (N // 2) + c[None, :]
    cos, sin = tl.load(cos_ptr + turn).to(tl.float32), tl.load(sin_ptr + turn).to(tl.float32)
    tl.store(q_ptr + at, (x1 * cos - x2 * sin).to(q_ptr.dtype.element_ty))
    tl.store(q_ptr + at + N // 2, (x2 * cos + x1 * sin).to(q_ptr.dtype.element_ty))
    if SUMS:
        program = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
        tl.store(sums_ptr + program, tl.sum(x1) + tl.sum(x2))


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


@triton.jit(do_not_specialize=["seed", "first_row"])
def gate_kernel(
    x_ptr, a_ptr, v_ptr, g_ptr, R, seed, first_row, scale,
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
        alive = kept(keys(first_row + row0 + r, 0x9E3779B1, seed), keys(column + c, 0x85EBCA77, seed), THRESHOLD)
        g = tl.where(alive, g * scale, 0.0)
    tl.store(g_ptr + at, g.to(g_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["seed", "first_row"])
def gate_decode_kernel(
    x_ptr, a_ptr, v_ptr, w_ptr, y_ptr, R, seed, first_row, scale,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    COLUMNS: tl.constexpr, THRESHOLD: tl.constexpr,
):  # fmt: skip
    """The part of Y = g W that COLUMNS neurons give to BM tokens, g never written; see `fused_forms.gate_decode`."""
    row0 = tl.program_id(0) * BM
    column0 = tl.program_id(1) * COLUMNS
    r, d, c = tl.arange(0, BM), tl.arange(0, D), tl.arange(0, BN)
    row_keys = keys(first_row + row0 + r, 0x9E3779B1, seed)
    base = row0.to(tl.int64) * HN
    acc = tl.zeros((BM, D), tl.float32)
    run: tl.constexpr = COLUMNS if COLUMNS < N else N
    for start in range(0, COLUMNS, run):
        h = (column0 + start) // N
        a = tl.load(a_ptr + (h.to(tl.int64) * R + row0) * D + r[:, None] * D + d[None, :])
        for offset in range(0, run, BN):
            column = column0 + start + offset
            v = tl.load(v_ptr + column + d[:, None] * HN + c[None, :])
            y = tl.maximum(dot(a, v, tl.zeros((BM, BN), tl.float32)), 0.0)
            g = y * tl.abs(tl.load(x_ptr + base + column + r[:, None] * HN + c[None, :]).to(tl.float32))
            if THRESHOLD > 0:
                alive = kept(row_keys, keys(column + c, 0x85EBCA77, seed), THRESHOLD)
                g = tl.where(alive, g * scale, 0.0)
            w = tl.load(w_ptr + (column + c[:, None]) * D + d[None, :])
            acc = dot(g.to(w_ptr.dtype.element_ty), w, acc)
    at = (tl.program_id(1).to(tl.int64) * R + row0) * D + r[:, None] * D + d[None, :]
    tl.store(y_ptr + at, acc)


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
