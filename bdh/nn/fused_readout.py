"""Readout and cross-entropy of a large vocabulary in chunks of tokens: no tensor of tokens times vocabulary is kept.

The gradients of the rows and of the readout are computed in the forward pass, chunk by chunk, where the logits are at
hand: z = x W (rounded to the operands' dtype, as autocast does), loss = mean(logsumexp(z) - z_target) in float32,
dz = (softmax(z) - onehot) / tokens, dx = dz W^T, dW = sum over chunks of x^T dz. The columns of W are padded to a
multiple of 64, which products on a GPU want; padding has no probability.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bdh.nn.fused_products import product

PAD = 64


class ChunkedLoss(torch.autograd.Function):
    """(x R,D; lm_head D,V; targets R, all of them ids; dtype; rows per chunk; forms) -> mean cross-entropy in nats."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lm_head: Tensor, targets: Tensor, dtype: torch.dtype, rows: int, forms: ModuleType
    ) -> Tensor:
        """The loss; its gradients are kept."""
        with torch.autocast(x.device.type, enabled=False):
            loss, dx, dW = loss_and_gradients(x, lm_head, targets, dtype, rows, forms)
        ctx.gradients = [dx, dW]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, times that of the loss."""
        dx, dW = ctx.gradients
        ctx.gradients = None
        return dx * d_loss, dW * d_loss, None, None, None, None


def loss_and_gradients(
    x: Tensor, lm_head: Tensor, targets: Tensor, dtype: torch.dtype, rows: int, forms: ModuleType
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropy, its gradient by x (R,D) and by lm_head (D,V)."""
    vocabulary = lm_head.shape[1]
    W = F.pad(lm_head.to(dtype), (0, -vocabulary % PAD))
    total: Tensor | None = None
    dx, dW = torch.empty_like(x), torch.zeros(W.shape, dtype=lm_head.dtype, device=x.device)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        some = x[part].to(dtype)
        logits = some @ W
        summed = forms.loss(logits, targets[part], vocabulary, 1.0 / len(x)).sum()
        total = summed if total is None else total + summed
        dx[part] = product(logits, W.mT)
        dW += product(some.mT, logits)
    assert total is not None
    return total / len(x), dx, dW[:, :vocabulary]
