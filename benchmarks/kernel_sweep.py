"""Tiles worth timing per kernel, each a change to those of `bdh.nn.fused_settings.BLOCKS`; all fit a Hopper GPU."""

SWEEP: dict[str, list[dict[str, int]]] = {
    "encode": [{"N": 128, "warps": 8}, {"M": 64}, {"K": 32, "stages": 5}, {"warps": 8}],
    "rotate": [{"M": 16, "N": 256}, {"M": 8, "N": 512}, {"M": 64, "N": 64}],
    "scores": [{"N": 128}, {"N": 128, "warps": 4, "stages": 4}, {"M": 256}, {"K": 128, "stages": 2}],
    "gate": [{"M": 128}, {"M": 128, "warps": 8}, {"N": 64}, {"stages": 4}],
    "gate_decode": [{"N": 32}, {"M": 64, "warps": 4}, {"split": 2}],
    "gate_backward": [
        {"early": 0},
        {"M": 128, "warps": 8, "stages": 3},
        {"N": 64},
        {"stages": 3},
        {"M": 128, "N": 64, "warps": 8, "registers": 128},
    ],
    "pairs": [{"M": 128, "N": 128, "warps": 8}],
    "activity": [{"rows": 2048}, {"M": 32, "N": 128}, {"M": 8, "N": 512}],
    "states": [{"stages": 2}, {"M": 64, "warps": 4}, {"K": 128, "stages": 2}],
}
