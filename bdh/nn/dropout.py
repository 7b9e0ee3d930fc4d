"""Dropout for the many neurons of BDH: on a CPU four decisions come from one 64-bit random number.

`torch.nn.functional.dropout` draws a floating-point number per element there, which took a fifth of a training step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 4
LEVELS = 2**16


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """`x` with `share` of its elements zeroed and the others scaled to keep the mean; `x` itself outside training.

    On a CPU the share is a multiple of 2^-16 (rounded, and the scale is that of the rounded share). Draws from torch's
    default generator of the device.
    """
    if not training or share == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, share)
    dropped = min(round(share * LEVELS), LEVELS - 1)
    numbers = torch.empty(-(-x.numel() // LANES), dtype=torch.int64).random_(-(2**63), None)
    draws = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (draws >= dropped - LEVELS // 2).to(x.dtype)
    return x * kept.mul_(LEVELS / (LEVELS - dropped))
