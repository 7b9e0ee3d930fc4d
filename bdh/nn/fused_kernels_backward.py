"""Triton programs of the backward pass; importing this file needs triton. Conventions as in `fused_kernels`."""

# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from bdh.nn.fused_kernels import dot, kept, keys


@triton.jit(do_not_specialize=["seed", "first_row"])
def gate_backward_kernel(
    x_ptr, a_ptr, v_ptr, dy_ptr, w_ptr, g_ptr, dys_ptr, dx_ptr, R, seed, first_row, scale,
    D: tl.constexpr, N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    THRESHOLD: tl.constexpr, KEPT: tl.constexpr, MARK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """g, the gradients of relu(a V) and of x for BM tokens and BN neurons; see `fused_forms.gate_backward`."""
    row0, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    h = column // N
    r, c, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    dy = dy_ptr + row0.to(tl.int64) * D + r[:, None] * D + k[None, :]
    w = w_ptr + column.to(tl.int64) * D + c[None, :] * D + k[:, None]
    dg = tl.zeros((BM, BN), tl.float32)
    at = row0.to(tl.int64) * HN + column + r[:, None] * HN + c[None, :]
    if EARLY:
        x = tl.load(x_ptr + at)
    if KEPT:
        for _ in range(0, D, BK):
            dg = dot(tl.load(dy), tl.load(w), dg)
            dy += BK
            w += BK
    else:
        a = a_ptr + (h.to(tl.int64) * R + row0) * D + r[:, None] * D + k[None, :]
        v = v_ptr + column + k[:, None] * HN + c[None, :]
        y = tl.zeros((BM, BN), tl.float32)
        for _ in range(0, D, BK):
            y = dot(tl.load(a), tl.load(v), y)
            dg = dot(tl.load(dy), tl.load(w), dg)
            a += BK
            v += BK * HN
            dy += BK
            w += BK
    if not EARLY:
        x = tl.load(x_ptr + at)
    x = tl.abs(x.to(tl.float32))
    if KEPT:
        g = tl.load(g_ptr + at).to(tl.float32)
        live = g > 0.0
        dys = tl.where(live, dg * x * scale, 0.0)
        dx = tl.where(live, dg * g / x, 0.0)
    else:
        y = tl.maximum(y, 0.0)
        if THRESHOLD > 0:
            alive = kept(keys(first_row + row0 + r, 0x9E3779B1, seed), keys(column + c, 0x85EBCA77, seed), THRESHOLD)
            dg = tl.where(alive, dg * scale, 0.0)
            tl.store(g_ptr + at, tl.where(alive, x * y * scale, 0.0).to(g_ptr.dtype.element_ty))
        else:
            tl.store(g_ptr + at, (x * y).to(g_ptr.dtype.element_ty))
        dys = tl.where(y > 0.0, dg * x, 0.0)
        dx = dg * y
    tl.store(dys_ptr + at, dys.to(dys_ptr.dtype.element_ty))
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
    dq_ptr, dx_ptr, cos_ptr, sin_ptr, l1_ptr, x_ptr, carry_ptr, row_start, column_start, T,
    N: tl.constexpr, HN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    L1: tl.constexpr, CARRY: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """dx <- [x>0] (rope^-1(dq) + dx + l1) for BM tokens and BN pairs of a head; see `fused_forms.activity`.

    dq holds one head (rows, N) from `row_start` on; the other tensors hold all (R,HN).
    """
    row, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    row0 = row_start + row
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    own = row.to(tl.int64) * N + n + r[:, None] * N + c[None, :]
    d1, d2 = tl.load(dq_ptr + own).to(tl.float32), tl.load(dq_ptr + own + N // 2).to(tl.float32)
    turn = (row0 % T) * (N // 2) + n + r[:, None] * (N // 2) + c[None, :]
    cos, sin = tl.load(cos_ptr + turn).to(tl.float32), tl.load(sin_ptr + turn).to(tl.float32)
    at = row0.to(tl.int64) * HN + column_start + n + r[:, None] * HN + c[None, :]
    direct1, direct2 = tl.load(dx_ptr + at).to(tl.float32), tl.load(dx_ptr + at + N // 2).to(tl.float32)
    t1 = d1 * cos + d2 * sin + direct1
    t2 = d2 * cos - d1 * sin + direct2
    if L1:
        l1 = tl.load(l1_ptr)
        t1 += l1
        t2 += l1
    if CARRY:
        if not FIRST:
            t1 += tl.load(carry_ptr + at).to(tl.float32)
            t2 += tl.load(carry_ptr + at + N // 2).to(tl.float32)
        tl.store(carry_ptr + at, t1.to(carry_ptr.dtype.element_ty))
        tl.store(carry_ptr + at + N // 2, t2.to(carry_ptr.dtype.element_ty))
        t1 = tl.where(tl.load(x_ptr + at) < 0.0, t1, 0.0)
        t2 = tl.where(tl.load(x_ptr + at + N // 2) < 0.0, t2, 0.0)
    else:
        t1 = tl.where(direct1 == direct1, t1, 0.0)
        t2 = tl.where(direct2 == direct2, t2, 0.0)
    tl.store(dx_ptr + at, t1.to(dx_ptr.dtype.element_ty))
    tl.store(dx_ptr + at + N // 2, t2.to(dx_ptr.dtype.element_ty))


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
