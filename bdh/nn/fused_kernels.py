"""Triton programs of the forward pass; importing this file needs triton. The same in plain torch: `fused_forms`.

Tiles are exact: the caller pads tokens and chooses tiles that divide every size, so nothing is masked.
Rotary pairs are neighbouring neurons. R rows (tokens of all streams), T tokens per stream, D
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
