"""A float32 number in two halves that are stored apart: its bfloat16 rounding and what the rounding left.

Reading the state then moves two bytes per number instead of four, while every update is done in float32, exactly: the
32 bits of the number, taken as an integer, are 65536 * high + low with low in [-32768, 32767].
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_planes(wide: Tensor) -> tuple[Tensor, Tensor]:
    """High (bfloat16, the nearest, ties away from zero) and low (int16) half of float32 numbers; NaN is not kept."""
    bits = wide.float().contiguous().view(torch.int32)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def join_planes(high: Tensor, low: Tensor) -> Tensor:
    """The float32 numbers that `split_planes` took apart, bit for bit."""
    bits = (high.contiguous().view(torch.int16).to(torch.int32) << 16) + low.to(torch.int32)
    return bits.view(torch.float32)
