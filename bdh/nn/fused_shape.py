"""Sizes of one fused pass, and the layouts in which its tensors stand.

- Rows are tokens, streams one after the other, every stream padded with zero rows to a whole number of tiles. A zero
  row stays zero through every layer of BDH, reads nothing, writes nothing and has no gradient: padding is exact.
- Neurons are columns, head by head in the official order, so that a rotary pair is two neighbours.

Letters: B streams, T tokens per stream (padded), R = B*T rows, C tokens per segment, S = R/C segments, D embedding,
H heads, N neurons per head, HN = H*N.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
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


def columns(weight_HDN: Tensor) -> Tensor:
    """D,HN of the official H,D,N."""
    return weight_HDN.transpose(0, 1).flatten(1)


def heads_of(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `columns`, as a view."""
    return weight.view(weight.shape[0], heads, -1).transpose(0, 1)


@functools.lru_cache(maxsize=4)
def turns(tokens: int, neurons: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosine (at the even neuron of a pair) and sine (at the odd one) of every position, (T,N).

    In float16 (error 2^-12) where activations are bfloat16.
    """
    both = torch.stack(rotation(tokens, pair_frequencies(neurons).to(device)), dim=-1).flatten(1)
    return both.to(torch.float16 if dtype == torch.bfloat16 else dtype)
