"""Readout and cross-entropy in chunks of tokens, with their gradients: no tensor of tokens times vocabulary is kept.

Per chunk, where the logits are at hand: z = x W (rounded to the operands' dtype, as autocast does),
loss = mean(logsumexp(z) - z_target) in float32, dz = (softmax(z) - onehot) / tokens, dx = dz W^T, dW += x^T dz. The
columns of W are padded to a multiple of 64, which products on a GPU want; padding has no probability.
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.fused_products import add_product, product

PAD = 64


class Readout:
    """The mean loss over `tokens` tokens in all, which come in any number of parts, `rows` at a time.

    lm_head: D,V. dtype: of the products' operands. forms: as in `Plan.forms`.
    """

    def __init__(self, lm_head: Tensor, dtype: torch.dtype, rows: int, tokens: int, forms: ModuleType) -> None:
        self.vocabulary = lm_head.shape[1]
        self.W = F.pad(lm_head.detach().to(dtype), (0, -self.vocabulary % PAD))
        self.total = torch.zeros(self.W.shape, dtype=lm_head.dtype, device=lm_head.device)
        self.dtype, self.rows, self.tokens, self.forms = dtype, rows, tokens, forms

    def begin(self, lm_head: Tensor) -> None:
        """Take other weights of the same sizes and forget the gradient."""
        self.W[:, : self.vocabulary].copy_(lm_head)
        self.total.zero_()

    def add(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What these tokens (x R,D; targets R, all of them ids) add to the mean loss, and their gradient by x."""
        losses, dx = [], torch.empty_like(x)
        for start in range(0, len(x), self.rows):
            part = slice(start, start + self.rows)
            some = x[part].to(self.dtype)
            logits = some @ self.W
            losses.append(self.forms.loss(logits, targets[part], self.vocabulary, 1.0 / self.tokens).sum())
            dx[part] = product(logits, self.W.mT)
            add_product(self.total, some.mT, logits)
        return torch.stack(losses).sum() / self.tokens, dx

    @property
    def gradient(self) -> Tensor:
        """Of lm_head, D,V."""
        return self.total[:, : self.vocabulary]
