"""Runs the Triton programs for rows; the functions and their arguments are those of `fused_forms_rows`."""

from __future__ import annotations

import torch
from torch import Tensor

from bdh.nn import fused_kernels_rows as kernels
from bdh.nn.fused_settings import BLOCKS, fit
from bdh.nn.fused_shape import Shape

ROWS = 8


def settle(reads: Tensor, a: Tensor, shape: Shape) -> Tensor:
    """See `fused_forms_rows.settle`."""
    scale = torch.empty(shape.H, shape.R, dtype=torch.float32, device=reads.device)
    M = fit(ROWS, shape.C)
    kernels.settle_kernel[(shape.R // M, shape.H)](
        reads, a, scale, shape.R, a.stride(0), C=shape.C, H=shape.H, D=shape.D, BM=M, **_how()
    )
    return scale


def settle_backward(gradient: Tensor, a: Tensor, scale: Tensor, shape: Shape) -> Tensor:
    """See `fused_forms_rows.settle_backward`."""
    da = torch.empty_like(gradient)
    M = fit(ROWS, shape.R)
    kernels.settle_backward_kernel[(shape.R // M, shape.H)](
        gradient, a, scale, da, shape.R, a.stride(0), D=shape.D, BM=M, **_how()
    )
    return da


def answer(parts: Tensor, u: Tensor | None, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `fused_forms_rows.answer`."""
    P, R, D = parts.shape
    after, scales = torch.empty_like(parts[0]), torch.empty(2, R, dtype=torch.float32, device=parts.device)
    y = after if u is None else torch.empty_like(after)
    M = fit(ROWS, R)
    kernels.answer_kernel[(R // M,)](
        parts, after if u is None else u, y, after, v, scales[0], scales[1], R,
        PARTS=P, D=D, BM=M, RESIDUAL=u is not None, **_how(),
    )  # fmt: skip
    return after, y, scales[0], scales[1]


def answer_backward(
    du: Tensor, parts: Tensor | None, reads: Tensor | None, y: Tensor, after: Tensor, y_scale: Tensor, scale: Tensor,
    residual: bool, dy: Tensor,
) -> Tensor:  # fmt: skip
    """See `fused_forms_rows.answer_backward`."""
    R, D = du.shape
    dv = torch.empty_like(du) if residual else torch.zeros_like(du)
    M = fit(ROWS, R)
    kernels.answer_backward_kernel[(R // M,)](
        du, du if parts is None else parts, du if reads is None else reads, y, after, y_scale, scale, dv, dy, R,
        PARTS=0 if parts is None else len(parts), D=D, BM=M, RESIDUAL=residual, **_how(),
    )  # fmt: skip
    return dv


def _how() -> dict[str, int]:
    return {"num_warps": BLOCKS["norms"]["warps"], "num_stages": BLOCKS["norms"]["stages"]}
