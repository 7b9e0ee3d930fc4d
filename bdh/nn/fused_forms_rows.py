"""Rows of D values between the large steps of the fused layers, in plain torch; `fused_launch_rows` runs the kernels.

Layouts and letters: `fused_shape`. Norms are LayerNorms without parameters. What is kept for the backward pass is the
normed row and the number `scale` that it was multiplied with, 1 / sqrt(variance + 1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bdh.nn.fused_shape import Shape

EPSILON = 1e-5


def settle(reads: Tensor, a: Tensor, shape: Shape) -> Tensor:
    """a (H,R,D) = norm of reads (S,H*C,D), written into a; returns its scale (H,R)."""
    rows = reads.view(shape.segments, shape.H, shape.C, shape.D).transpose(0, 1).reshape(shape.H, shape.R, shape.D)
    normed, scale = _normal(rows)
    a.copy_(normed)
    return scale


def settle_backward(gradient: Tensor, a: Tensor, scale: Tensor, shape: Shape) -> Tensor:
    """The gradient of the reads (H,R,D) from that of a."""
    return _normal_backward(gradient.to(scale.dtype), a.to(scale.dtype), scale).to(a.dtype)


def answer(parts: Tensor, u: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows after a layer from its answer y, the sum of parts (P,R,D), written into v in the operands' dtype.

    With a residual stream u (R,D) they are norm(u + norm(y)), otherwise norm(y). Returns the rows, norm(y), and the
    scales of both norms (the second empty without a residual stream).
    """
    y, y_scale = _normal(parts.sum(0))
    after, scale = (y, y_scale.new_empty(0)) if u is None else _normal(u + y)
    v.copy_(after)
    return after, y, y_scale, scale


def answer_backward(
    du: Tensor, parts: Tensor | None, reads: Tensor | None, y: Tensor, after: Tensor, y_scale: Tensor, scale: Tensor,
    residual: bool, dy: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of u (R,D) along the residual stream, and that of y, written into dy.

    The gradient after the layer is du plus, unless None, the parts (P,R,D) and `reads` (R,D). Without a residual stream
    the answer is du's zero gradient.
    """
    gradient = du if parts is None or reads is None else du + parts.sum(0) + reads
    dv = _normal_backward(gradient, after, scale) if residual else gradient
    dy.copy_(_normal_backward(dv, y, y_scale))
    return dv if residual else torch.zeros_like(du)


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, dim=-1, correction=0)
    scale = (variance + EPSILON).rsqrt()
    return (x - mean[..., None]) * scale[..., None], scale


def _normal_backward(gradient: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    mean = gradient.mean(-1, keepdim=True)
    along = (gradient * normed).mean(-1, keepdim=True)
    return (gradient - mean - normed * along) * scale[..., None]
