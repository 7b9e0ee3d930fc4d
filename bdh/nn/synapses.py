"""A linear layer that remembers its initial weights by their seed, so that what it learned can be told from chance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ORIGIN_RANGE = 2**62


class SeededLinear(nn.Module):
    """`x W^T` without bias; W (O,I) is drawn from normal(0, std) by the seed in the buffer `origin`.

    The buffer travels with the weights, so `initial_weight` is exact after training, saving and loading.
    """

    weight: nn.Parameter
    origin: Tensor

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        """Draw the seed from torch's generator and the weights, normal(0, `std`), from the seed."""
        super().__init__()
        self.std = std
        self.register_buffer("origin", torch.randint(ORIGIN_RANGE, (1,)))
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        if not self.weight.is_meta:
            with torch.no_grad():
                self.weight.copy_(self.initial_weight())

    def initial_weight(self) -> Tensor:
        """The weights before any learning, (O,I), in the type and on the device of the weights now."""
        generator = torch.Generator().manual_seed(int(self.origin))
        return (torch.randn(self.weight.shape, generator=generator) * self.std).to(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., O) of inputs (..., I)."""
        return F.linear(x, self.weight)
