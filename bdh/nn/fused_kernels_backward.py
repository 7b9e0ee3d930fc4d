"""Triton programs of the backward pass; importing this file needs triton. Conventions as in `fused_kernels`."""

# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

from bdh.nn.fused_kernels import dot, turned


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
