"""Every tunable number of the fused training path, in one place: tiles, crossovers and memory budgets.

Nothing here changes what is computed, only how fast and in how much memory. The numbers are those of one H200; a caller
may pass others (`Tuning`), as `benchmarks/kernels.py` does to compare them.

Letters of tiles: M rows (tokens), N columns (neurons, or tokens of the other side), K summed over in one step;
`rows` tokens per product, `early` 1: load what the end needs at the start, `warps`, `stages` of the pipeline,
`registers` (optional): most per thread. A program that leaves room for a second one on its multiprocessor (half of the
shared memory, 128 registers at 8 warps or 255 at 4) overlaps its loads and stores with the other's products.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Blocks = dict[str, int]

BLOCKS: dict[str, Blocks] = {
    "encode": {"M": 128, "N": 64, "K": 64, "warps": 4, "stages": 3},
    "rotate": {"M": 32, "N": 128, "warps": 4, "stages": 1},
    "scores": {"M": 128, "N": 256, "K": 64, "warps": 8, "stages": 3},
    "gate": {"M": 64, "N": 128, "K": 64, "warps": 4, "stages": 3},
    "gate_decode": {"M": 128, "N": 64, "split": 1, "warps": 8, "stages": 2},
    "gate_backward": {"M": 64, "N": 128, "K": 64, "early": 1, "warps": 4, "stages": 2},
    "pairs": {"M": 64, "N": 64, "warps": 4, "stages": 1},
    "activity": {"M": 16, "N": 256, "rows": 8192, "warps": 4, "stages": 1},
    "states": {"M": 128, "K": 64, "warps": 8, "stages": 3},
    "loss": {"N": 4096, "warps": 8, "stages": 1},
}
"""Wanted tiles per kernel for rows of up to 256 values; `fit` makes them smaller where a shape is."""

SMALLEST = 16
"""The smallest side of a tile that matrix units take."""

KEPT = ("x", "g", "q", "states")
"""What a layer may keep for the backward pass instead of recomputing it, in the order in which memory is spent."""


@dataclass(frozen=True)
class Tuning:
    """Choices that trade time against memory; see the fields.

    rows: tokens that pass through all layers at once (whole streams, at least one); temporaries grow with it.
    keep_bytes: memory for kept activations of all layers together, for windows below and from `long_from`.
    long_from: shortest window that uses the chunked state form; segment: its chunk length in tokens.
    loss_vocabulary: smallest vocabulary whose loss is computed in chunks; loss_rows: tokens per chunk.
    scores: `tiles` (own kernel, lower tiles only) or `product` (one batched product and a mask).
    decode: `product` (gate kernel, then a plain product) or `fused` (both in one kernel).
    blocks: tiles that replace those of BLOCKS, by kernel.
    """

    rows: int = 8192
    keep_bytes: int = 7_500_000_000
    keep_bytes_long: int = 24_000_000_000
    long_from: int = 1536
    segment: int = 256
    loss_vocabulary: int = 2048
    loss_rows: int = 4096
    scores: str = "tiles"
    decode: str = "product"
    blocks: dict[str, Blocks] = field(default_factory=dict)

    def of(self, kernel: str) -> Blocks:
        """Wanted tiles of a kernel."""
        return BLOCKS[kernel] | self.blocks.get(kernel, {})


DEFAULT = Tuning()


def fit(wanted: int, size: int) -> int:
    """The largest of wanted, wanted/2, wanted/4, ... that divides `size`."""
    while size % wanted:
        wanted //= 2
    return wanted


def narrower(wanted: int, width: int) -> int:
    """A column tile for rows of `width` values: tiles are chosen for 256 and shrink in proportion above that."""
    return max(16, wanted * 256 // max(width, 256))
