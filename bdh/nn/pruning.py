"""Synapses that are removed for good, and homeostatic scaling of those that stay (BDH-SLIM's plasticity)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.synapses import SeededLinear

LARGEST_SCALING = 0.1
"""A neuron's incoming weights change by at most this share per application."""
LARGEST_LENGTH = 8.0
"""Scaling lengthens no neuron's incoming weights beyond this: a neuron whose inputs are silent would grow for ever."""


class PrunableLinear(SeededLinear):
    """A linear layer whose weights count only where the buffer `mask` (O,I, boolean) is set.

    The mask stays for ever: the forward pass multiplies by it, so a pruned synapse carries nothing and gets no
    gradient, and `enforce` clears what an optimizer's momentum put there.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        """All synapses present."""
        super().__init__(inputs, outputs, std)
        self.register_buffer("mask", torch.ones(outputs, inputs, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., O) of inputs (..., I) through the synapses that are left."""
        return F.linear(x, self.weight * self.mask)

    @torch.no_grad()
    def add(self, change_OI: Tensor) -> None:
        """Add a change of weights, pruned synapses excepted."""
        self.weight.add_(change_OI * self.mask)

    @torch.no_grad()
    def enforce(self) -> None:
        """Set pruned weights to zero."""
        self.weight.mul_(self.mask)

    @torch.no_grad()
    def prune(self, threshold: float) -> None:
        """Remove every synapse with |weight| below `threshold`."""
        self.mask.logical_and_(self.weight.abs() >= threshold)
        self.enforce()

    @torch.no_grad()
    def scale(self, activity_O: Tensor, target: float) -> None:
        """Homeostasis: multiply each neuron's incoming weights towards the activity `target`.

        `activity_O` is the mean magnitude of what each neuron sent, measured on activations. The factor
        target / activity is clipped to 1 +- LARGEST_SCALING (a silent neuron gets the largest), and once more where
        the weights would become longer than LARGEST_LENGTH.
        """
        factor_O = (target / activity_O).nan_to_num(posinf=1.0 + LARGEST_SCALING)
        factor_O = factor_O.clamp(1.0 - LARGEST_SCALING, 1.0 + LARGEST_SCALING).to(self.weight)
        room_O = (LARGEST_LENGTH / self.weight.norm(dim=1)).clamp(min=1.0)
        self.weight.mul_(torch.minimum(factor_O, room_O)[:, None])
