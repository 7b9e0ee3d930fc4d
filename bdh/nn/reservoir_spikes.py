"""Stochastic spikes of a reservoir: drawn while training, a fixed function of the position otherwise.

Shape letters: B batch (independent streams), T tokens, N neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ODD, _MIX = -7046029254386353131, -4658895280553007687
_BITS = 24


def drawn_spikes(batch_size: int, length: int, neurons: int, rate: float, device: torch.device) -> Tensor:
    """Bernoulli(rate) for every stream, token and neuron (B,T,N bool) from torch's own generator."""
    return torch.rand(batch_size, length, neurons, device=device) < rate


def fixed_spikes(position_B: Tensor, length: int, neurons: int, rate: float) -> Tensor:
    """Spikes (B,T,N bool) of the tokens at `position`, `position + 1`, ...: a hash of position and neuron below `rate`.

    The same position always spikes in the same way, so a text read in chunks, or twice, gives the same numbers on any
    device. The hash multiplies in 64-bit integers that wrap around and mixes high bits into low ones (as splitmix64).
    """
    position_BT = position_B[:, None] + torch.arange(length, device=position_B.device)
    key_BTN = position_BT[..., None] * neurons + torch.arange(1, neurons + 1, device=position_B.device)
    key_BTN = key_BTN * _ODD
    key_BTN = (key_BTN ^ (key_BTN >> 30)) * _MIX
    key_BTN = key_BTN ^ (key_BTN >> 27)
    return ((key_BTN * _ODD) >> 20 & ((1 << _BITS) - 1)) < int(rate * (1 << _BITS))
