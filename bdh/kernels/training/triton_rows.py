"""Triton programs for rows of D or V values between the large steps; importing this file needs triton.

The same in plain torch, with all descriptions: `reference`. Launched by `launch`. Norms forward and back, with the sums
before them, BM rows per program; readout loss, one row per program.

R rows (tokens of all streams), C tokens per segment, S = R/C segments, D embedding, H heads, V vocabulary. Operands,
all row-major, with the stride of the last dimension 1:

| operand | shape | dtype | |
|---|---|---|---|
| reads | S,H*C,D | float32 | what tokens read, before the norm |
| a, da, gradient | H,R,D | operand | normed reads and gradients; a may be a slice of all layers: `a_stride` per head |
| parts | PARTS,R,D | float32 | shares of the answer (or its gradient), to be summed |
| u, du, dv, y, after, reads of `answer_backward` | R,D | float32 | residual stream, normed answer, rows after a layer |
| v, dy | R,D | operand | the same rows as operands of products |
| scale, y_scale, after_scale | H,R or R | float32 | what a norm multiplied with |
| logits | rows, STRIDE | operand | the first V columns are tokens, the rest padding |
| targets, losses | rows | int64, float32 | |

Operand: bfloat16 on a GPU, float32 in tests. Sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

# The arguments of a Triton program are pointers and numbers of the device, which Python's types do not describe.
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
    """See `reference.settle`."""
    row, h = tl.program_id(0) * BM, tl.program_id(1)
    r, d = tl.arange(0, BM), tl.arange(0, D)
    source = ((row // C) * H + h) * C + row % C
    # Rows come segment by segment and head by head, and leave head by head.
    x = tl.load(reads_ptr + source.to(tl.int64) * D + r[:, None] * D + d[None, :])
    a, scale = normal(x, D)
    at = h.to(tl.int64) * a_stride + row * D + r[:, None] * D + d[None, :]
    tl.store(a_ptr + at, a.to(a_ptr.dtype.element_ty))
    tl.store(scale_ptr + h * R + row + r, scale)


@triton.jit
def settle_backward_kernel(gradient_ptr, a_ptr, scale_ptr, da_ptr, R, a_stride, D: tl.constexpr, BM: tl.constexpr):
    """See `reference.settle_backward`."""
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
    """See `reference.answer`."""
    row = tl.program_id(0) * BM
    r, d = tl.arange(0, BM), tl.arange(0, D)
    at = row.to(tl.int64) * D + r[:, None] * D + d[None, :]
    # Sum of the heads' shares, and its norm.
    y = tl.zeros((BM, D), tl.float32)
    for part in tl.static_range(PARTS):
        y += tl.load(parts_ptr + part * (R.to(tl.int64) * D) + at)
    y, scale = normal(y, D)
    tl.store(y_scale_ptr + row + r, scale)
    # The residual stream and its norm; kept wide, and in the operands' dtype for the next product.
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
    """See `reference.answer_backward`."""
    row = tl.program_id(0) * BM
    r, d = tl.arange(0, BM), tl.arange(0, D)
    at = row.to(tl.int64) * D + r[:, None] * D + d[None, :]
    # What arrives after the layer: along the residual stream, by reads, by the activity of every head.
    gradient = tl.load(du_ptr + at)
    if PARTS > 0:
        gradient += tl.load(reads_ptr + at)
        for part in tl.static_range(PARTS):
            gradient += tl.load(parts_ptr + part * (R.to(tl.int64) * D) + at)
    # Back through both norms.
    if RESIDUAL:
        gradient = normal_backward(gradient, tl.load(after_ptr + at), tl.load(after_scale_ptr + row + r), D)
        tl.store(dv_ptr + at, gradient)
    gradient = normal_backward(gradient, tl.load(y_ptr + at), tl.load(y_scale_ptr + row + r), D)
    tl.store(dy_ptr + at, gradient.to(dy_ptr.dtype.element_ty))


@triton.jit
def loss_kernel(logits_ptr, targets_ptr, losses_ptr, scale, V: tl.constexpr, STRIDE: tl.constexpr, BN: tl.constexpr):
    """Cross-entropy of one token; its logits become their gradients times `scale`; see `reference.loss`."""
    row = tl.program_id(0)
    logits = logits_ptr + row.to(tl.int64) * STRIDE
    c = tl.arange(0, BN)
    target = tl.load(targets_ptr + row)
    chosen = tl.load(logits + target).to(tl.float32)
    # Largest logit and sum of exponentials in one walk; lanes are joined at the end.
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
    # (softmax - onehot) * scale over the logits; padding columns become 0.
    for start in range(0, STRIDE, BN):
        inside = start + c < V
        z = tl.load(logits + start + c, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = (tl.exp(z - log_sum) - tl.where(start + c == target, 1.0, 0.0)) * scale
        tl.store(logits + start + c, gradient.to(logits_ptr.dtype.element_ty), mask=start + c < STRIDE)
