"""Tiles worth timing per kernel, changes to those of `bdh.kernels.training.shape.BLOCKS`; all fit a Hopper GPU."""

SWEEP: dict[str, list[dict[str, int]]] = {
    "encode": [{"N": 128, "warps": 8}, {"M": 64}, {"K": 32, "stages": 5}, {"warps": 8}],
    "scores": [{"N": 256, "warps": 8, "stages": 3}, {"N": 128, "warps": 8}, {"M": 256, "warps": 8, "stages": 3}],
    "gate": [{"M": 128}, {"M": 128, "warps": 8}, {"N": 64}, {"stages": 4}],
    "gradient": [{"M": 128, "warps": 8, "stages": 3}, {"N": 64}, {"stages": 3}],
    "pairs": [{"M": 128, "N": 128, "warps": 8}],
    "activity": [{"rows": 2048}, {"M": 32, "N": 256}, {"M": 8}],
    "states": [{"stages": 2}, {"M": 64, "warps": 4}, {"K": 128, "stages": 2}],
}

STREAM_SWEEP: dict[str, list[dict[str, int]]] = {
    "encode": [{"right": 3}, {"own": 3}, {"N": 32, "right": 4, "own": 4}],
    "gate": [{"right": 3}, {"own": 2}, {"own": 4}],
    "gradient": [{"right": 3}, {"own": 3}, {"N": 32, "right": 4, "own": 4}],
    "activity": [{"N": 32, "right": 4, "own": 2}],
}
"""The same for the programs of `bdh.kernels.training.hopper` (fields of `bdh.kernels.training.shape.STREAMS`)."""
