"""Tiles worth timing per kernel, each a change to those of `bdh.nn.fused_settings.BLOCKS`; all fit a Hopper GPU."""

SWEEP: dict[str, list[dict[str, int]]] = {
    "encode": [
        {"N": 32, "tiles": 8, "warps": 4, "stages": 1},
        {"M": 64, "N": 32, "tiles": 8, "warps": 4},
        {"N": 128, "tiles": 2, "stages": 1},
        {"stages": 1},
        {"tiles": 16},
    ],
    "rotate": [{"M": 16, "N": 256}, {"M": 64, "N": 64}],
    "scores": [{"N": 256}, {"M": 256}, {"stages": 4}, {"N": 256, "stages": 4}, {"K": 128, "stages": 2}, {"warps": 4}],
    "gate": [
        {"N": 64, "tiles": 8, "warps": 4, "stages": 1},
        {"M": 64, "N": 64, "tiles": 16, "warps": 4},
        {"stages": 1},
        {"tiles": 16},
        {"N": 64, "tiles": 16},
    ],
    "gate_decode": [{"N": 32}, {"M": 64, "warps": 4}, {"split": 2}],
    "gate_backward": [
        {"N": 64, "registers": 128},
        {"M": 64, "N": 64, "warps": 4, "stages": 3},
        {"M": 64},
        {"N": 64, "stages": 3},
        {"early": 0},
    ],
    "pairs": [{"M": 128, "N": 128, "warps": 8}],
    "activity": [
        {"M": 64, "warps": 4},
        {"M": 64, "warps": 4, "early": 0},
        {"N": 32, "warps": 4},
        {"registers": 128, "early": 0},
        {"K": 128, "stages": 2},
    ],
    "states": [{"stages": 2}, {"M": 64, "warps": 4}, {"K": 128, "stages": 2}],
}
