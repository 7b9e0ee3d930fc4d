"""Rotary positions over the two halves of a head: pairs (i, i + K/2), base 10000 (Su et al. 2021, GPT-NeoX layout)."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0


def half_frequencies(head_size: int, device: torch.device | None = None) -> Tensor:
    """Radians per token of every pair, (head_size / 2,) float32: `BASE ** (-2 i / head_size)`."""
    exponents = torch.arange(0, head_size, 2, device=device).float() / head_size
    return 1.0 / (BASE**exponents)


def half_rotation(positions_BT: Tensor, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B,1,T,K/2) of the phases at integer positions (B,T).

    Phases are float64, so that a stream may be millions of tokens long.
    """
    frequencies_K = half_frequencies(head_size, positions_BT.device).double()
    phases_B1TK = positions_BT[:, None, :, None].double() * frequencies_K
    return phases_B1TK.cos().to(dtype), phases_B1TK.sin().to(dtype)


def rotate_halves(x_BHTK: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every pair (i, i + K/2) of `x_BHTK` by the phase of its position."""
    cos, sin = rotation
    first, second = x_BHTK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
