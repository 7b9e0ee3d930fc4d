"""Sizes of one fused training pass, the layouts in which its tensors stand, and every number that may be tuned.

- Rows are tokens, streams one after the other, every stream padded with zero rows to a whole number of tiles. A zero
  row stays zero through every layer of BDH, reads nothing, writes nothing and has no gradient: padding is exact.
- Neurons are columns, head by head in the official order, so that a rotary pair is two neighbours.
- What may be tuned (`Tuning`, BLOCKS, STREAMS) changes nothing of what is computed, only how fast and in how much
  memory. The numbers are those of one H200; a caller may pass others, as `benchmarks/kernels.py` does to compare them.

Letters: B streams, T tokens per stream (padded), R = B*T rows, C tokens per segment, S = R/C segments, D embedding,
H heads, N neurons per head, HN = H*N. Letters of tiles: M rows (tokens), N columns (neurons, or tokens of the other
side), K summed over in one step; `rows` tokens per product, `warps`, `stages` of the pipeline, `registers` (optional):
most per thread. A program that leaves room for a second one on its multiprocessor (half of the shared memory, 128
registers at 8 warps or 255 at 4) overlaps its loads and stores with the other's products.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bdh.nn.rope import pair_frequencies, rotation

Blocks = dict[str, int]

BLOCKS: dict[str, Blocks] = {
    "encode": {"M": 128, "N": 128, "K": 64, "warps": 4, "stages": 3},
    "rotate": {"M": 32, "N": 256, "warps": 4, "stages": 1},
    "scores": {"M": 128, "N": 128, "K": 64, "warps": 4, "stages": 4},
    "gate": {"M": 64, "N": 128, "K": 64, "warps": 4, "stages": 3},
    "gradient": {"M": 64, "N": 128, "K": 64, "warps": 4, "stages": 2},
    "pairs": {"M": 64, "N": 64, "warps": 4, "stages": 1},
    "activity": {"M": 16, "N": 512, "rows": 8192, "warps": 4, "stages": 1},
    "states": {"M": 128, "K": 64, "warps": 8, "stages": 3},
    "loss": {"N": 4096, "warps": 8, "stages": 1},
    "norms": {"warps": 4, "stages": 1},
}
"""Wanted tiles per kernel for rows of up to 256 values; `fit` makes them smaller where a shape is."""

STREAMS: dict[str, Blocks] = {
    "encode": {"N": 64, "right": 2, "own": 2},
    "gate": {"N": 64, "right": 2, "own": 3},
    "gradient": {"N": 64, "right": 2, "own": 2},
    "activity": {"N": 64, "right": 2, "own": 1},
}
"""For the programs of `hopper`: columns per tile, and tiles that wait of the right operand and of each group."""

SMALLEST, TILE = 16, 128
"""The smallest side of a tile that matrix units take; the tile to which longer streams are padded."""


@dataclass(frozen=True)
class Tuning:
    """Choices that trade time against memory; see the fields.

    bytes: of activations of the streams that pass through all layers at once, forward and back (at least one).
    long_from: shortest window that uses the chunked state form; segment: its chunk length in tokens.
    loss_rows: tokens per chunk of the readout.
    hopper: use the programs of `hopper` where they can run.
    graph: replay the passes of a group from a CUDA graph.
    blocks: tiles that replace those of BLOCKS, by kernel; streams: the same for STREAMS.
    """

    bytes: int = 5_200_000_000
    long_from: int = 1536
    segment: int = 256
    loss_rows: int = 4096
    hopper: bool = True
    graph: bool = True
    blocks: dict[str, Blocks] = field(default_factory=dict)
    streams: dict[str, Blocks] = field(default_factory=dict)

    def of(self, kernel: str) -> Blocks:
        """Wanted tiles of a kernel."""
        return BLOCKS[kernel] | self.blocks.get(kernel, {})

    def stream(self, kernel: str) -> Blocks:
        """Wanted tiles of a program of `hopper`."""
        return STREAMS[kernel] | self.streams.get(kernel, {})


DEFAULT = Tuning()


def fit(wanted: int, size: int) -> int:
    """The largest of wanted, wanted/2, wanted/4, ... that divides `size`."""
    while size % wanted:
        wanted //= 2
    return wanted


def narrower(wanted: int, width: int) -> int:
    """A column tile for rows of `width` values: tiles are chosen for 256 and shrink in proportion above that."""
    return max(16, wanted * 256 // max(width, 256))


@dataclass(frozen=True)
class PassShape:
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


def shape_of(streams: int, tokens: int, width: int, heads: int, neurons: int, tuning: Tuning) -> PassShape:
    """The shape that holds `tokens` per stream: padded to tiles, or to segments from `tuning.long_from` tokens on."""
    if tokens >= tuning.long_from and tokens > tuning.segment:
        segment = tuning.segment
        return PassShape(streams, -(-tokens // segment) * segment, segment, width, heads, neurons)
    tile = SMALLEST
    while tile < min(tokens, TILE):
        tile *= 2
    padded = -(-tokens // tile) * tile
    return PassShape(streams, padded, padded, width, heads, neurons)


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
