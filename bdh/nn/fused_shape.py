"""Sizes of one fused pass, and the layouts in which its tensors stand.

- Rows are tokens, streams one after the other, every stream padded with zero rows to a whole number of tiles. A zero
  row stays zero through every layer of BDH, reads nothing, writes nothing and has no gradient: padding is exact.
- Neurons are columns, head by head, and within a head the even ones stand before the odd ones, so that a rotary pair
  is (n, n + N/2). The function is the same in any order of neurons; parameters keep the official one.

Letters: B streams, T tokens per stream (padded), R = B*T rows, C tokens per segment, S = R/C segments, D embedding,
H heads, N neurons per head, HN = H*N.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdh.nn.fused_settings import SMALLEST, Tuning
from bdh.nn.rope import pair_frequencies, rotation

TILE = 128


@dataclass(frozen=True)
class Shape:
    """B streams of T tokens in segments of C (C = T: one segment, the quadratic form); D, H, N as everywhere."""

    B: int
    T: int
    C: int
    D: int
    H: int
    N: int

    @property
    def R(self) -> int:  # noqa: N802
        """Rows."""
        return self.B * self.T

    @property
    def HN(self) -> int:  # noqa: N802
        """Neurons of all heads."""
        return self.H * self.N

    @property
    def segments(self) -> int:
        """Segments of all streams."""
        return self.R // self.C

    @property
    def long(self) -> bool:
        """Whether a state is carried between segments."""
        return self.C < self.T


def shape_of(streams: int, tokens: int, width: int, heads: int, neurons: int, tuning: Tuning) -> Shape:
    """The shape that holds `tokens` per stream: padded to tiles, or to segments from `tuning.long_from` tokens on."""
    if tokens >= tuning.long_from and tokens > tuning.segment:
        segment = tuning.segment
        return Shape(streams, -(-tokens // segment) * segment, segment, width, heads, neurons)
    tile = SMALLEST
    while tile < min(tokens, TILE):
        tile *= 2
    padded = -(-tokens // tile) * tile
    return Shape(streams, padded, padded, width, heads, neurons)


def pad_rows(x_BTD: Tensor, tokens: int) -> Tensor:
    """Rows R,D of streams padded with zeros to `tokens` each."""
    return F.pad(x_BTD, (0, 0, 0, tokens - x_BTD.shape[1])).reshape(-1, x_BTD.shape[-1])


def pair_columns(encoder_HDN: Tensor) -> Tensor:
    """D,HN with neuron pairs (n, n + N/2), from the official H,D,N with pairs (2i, 2i+1)."""
    H, D, N = encoder_HDN.shape
    return encoder_HDN.reshape(H, D, N // 2, 2).permute(1, 0, 3, 2).reshape(D, H * N)


def unpair_columns(encoder: Tensor, heads: int) -> Tensor:
    """The inverse of `pair_columns`, contiguous."""
    D, HN = encoder.shape
    return encoder.reshape(D, heads, 2, HN // heads // 2).permute(1, 0, 3, 2).reshape(heads, D, -1)


def pair_rows(decoder: Tensor, heads: int) -> Tensor:
    """HN,D with neuron pairs (n, n + N/2), from the official rows."""
    HN, D = decoder.shape
    return decoder.reshape(heads, HN // heads // 2, 2, D).transpose(1, 2).reshape(HN, D)


def unpair_rows(decoder: Tensor, heads: int) -> Tensor:
    """The inverse of `pair_rows`, contiguous."""
    HN, D = decoder.shape
    return decoder.reshape(heads, 2, HN // heads // 2, D).transpose(1, 2).reshape(HN, D)


@functools.lru_cache(maxsize=4)
def turns(tokens: int, neurons: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and pair, (T, N/2); in float16 (error 2^-12) where activations are bfloat16."""
    cos, sin = rotation(tokens, pair_frequencies(neurons).to(device))
    stored = torch.float16 if dtype == torch.bfloat16 else dtype
    return cos.to(stored), sin.to(stored)
