"""Triton programs for rows of D values between the large steps: norms forward and back, with the sums before them.

Importing this file needs triton. The same in plain torch, with all descriptions: `fused_forms_rows`. BM rows per
program.
"""

# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton
import triton.language as tl

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
