"""Matrix products of half-precision operands with sums and results in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b for matrices or batches of matrices, in `wide` of their dtype; half-precision operands are not copied."""
    out = wide(a.dtype)
    if a.dtype == out:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out) if a.ndim == 2 else torch.bmm(a, b, out_dtype=out)
    return a.to(out) @ b.to(out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b for matrices or batches of matrices; total has the `wide` dtype."""
    if a.is_cuda and a.dtype != total.dtype:
        add = torch.ops.aten.addmm if a.ndim == 2 else torch.ops.aten.baddbmm
        add.dtype_out(total, a, b, total.dtype, out=total)
    else:
        total += product(a, b)
