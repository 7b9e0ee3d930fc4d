"""Dropout decided by a hash of (seed, token, neuron): nothing is stored, and any tile can be decided again.

A pair of neurons shares one 32-bit hash z = rounds(key(r) + key'(pair)) (two multiply-xorshift rounds, constants of
C. Wellons' lowbias32; the keys are that hash of index and seed): its upper half decides about the even neuron, its
lower half, mixed with the upper, about the odd one. A neuron is kept where its 16 bits are at least share * 2^16. The
share is a multiple of 2^-16; the scale is that of the rounded share.

This is the plain form; the kernels contain the same arithmetic (`fused_kernels.kept`), so both decide alike bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 2**16
WORD = 0xFFFFFFFF
FIRST, SECOND = 0x7FEB352D, 0x846CA68B
ROW_STEP, COLUMN_STEP, LAYER_STEP = 0x9E3779B1, 0x85EBCA77, 0x27D4EB2F


@dataclass(frozen=True)
class Mask:
    """Which neurons of which tokens are dropped: `share` of them, by `seed`; `first_row` numbers the first token."""

    share: float
    seed: int
    first_row: int = 0

    @property
    def threshold(self) -> int:
        """Draws below this, out of 2^16, drop their neuron."""
        return min(round(self.share * LEVELS), LEVELS - 1)

    @property
    def scale(self) -> float:
        """What the kept neurons are multiplied with, so that the mean stays."""
        return LEVELS / (LEVELS - self.threshold)

    def of_layer(self, layer: int) -> Mask:
        """The mask of one layer: an independent seed."""
        return Mask(self.share, mix_number(self.seed + (layer + 1) * LAYER_STEP) & 0x7FFFFFFF, self.first_row)

    def of_rows(self, first_row: int) -> Mask:
        """The same mask for a tile whose first token has this number."""
        return Mask(self.share, self.seed, first_row)


def draws_of(mask: Mask, layers: int, first_rows: list[int], device: torch.device) -> Tensor:
    """What kernels need to decide, on the device: for every group of rows and layer its seed and first row, G,L,2."""
    table = [[[mask.of_layer(layer).seed, first] for layer in range(layers)] for first in first_rows]
    return torch.tensor(table, dtype=torch.int32).to(device, non_blocking=True)


def mix_number(value: int) -> int:
    """The hash of one number, 32 bits."""
    value &= WORD
    for shift, factor in ((16, FIRST), (15, SECOND)):
        value = (value ^ (value >> shift)) * factor & WORD
    return value ^ (value >> 16)


def multipliers(mask: Mask, rows: int, columns: int, like: Tensor) -> Tensor:
    """0 for dropped and `scale` for kept neurons, (rows, columns), in the dtype and on the device of `like`."""
    if mask.threshold == 0:
        return like.new_ones(rows, columns)
    row_R = torch.arange(mask.first_row, mask.first_row + rows, device=like.device)
    pair_P = torch.arange((columns + 1) // 2, device=like.device)
    key_R = _mix(row_R * ROW_STEP + mask.seed)
    key_P = _mix(pair_P * COLUMN_STEP + mask.seed)
    z = _rounds(key_R[:, None] + key_P[None, :] & WORD)
    draws = torch.stack((z >> 16, (z ^ (z >> 16)) & 0xFFFF), dim=-1).flatten(1)[:, :columns]
    return (draws >= mask.threshold).to(like.dtype) * mask.scale


def _rounds(z: Tensor) -> Tensor:
    z = _times(z ^ (z >> 16), FIRST)
    return _times(z ^ (z >> 15), SECOND)


def _mix(z: Tensor) -> Tensor:
    z = _rounds(z & WORD)
    return z ^ (z >> 16)


def _times(z: Tensor, factor: int) -> Tensor:
    """z * factor modulo 2^32 without leaving 63 bits."""
    low, high = factor & 0xFFFF, factor >> 16
    return (z * low + ((z * high & 0xFFFF) << 16)) & WORD
