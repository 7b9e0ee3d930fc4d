"""Golden vectors of the coactivation state: three updates of the official model's sigma, from its c vectors alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from bdh.models.base import build
from bdh.nn.probe import listening
from bdh.plasticity.coactivation import Coactivation, decay_weights, inner_products, pearson, sums

PREFIX = "official"
DAMPING = 0.99
ETA = 0.005
PARAMETER = "param."


def check(path: Path) -> dict[str, float]:
    """Relative error of sigma after three windows (layer 0), of inner products, sums and Pearson correlations."""
    with np.load(path, allow_pickle=False) as golden:
        state = _read_windows(golden)
        snapshots = np.arange(len(state.codes))
        weights_U = decay_weights(len(state.codes), snapshots, DAMPING, ETA)[-1]
        codes_UHN = state.codes[:, 0]
        products, totals = inner_products(state, snapshots), sums(state, snapshots)
        ours = {
            "sigma_after3_layer0": np.einsum("u,uhi,uhj->hij", weights_U, codes_UHN, codes_UHN),
            "sigma_inner_products": products,
            "sigma_sums": totals,
            "sigma_pearson": pearson(products, totals, state.entries),
        }
        return {name: _error(value, golden[name]) for name, value in ours.items()}


def _read_windows(golden: np.lib.npyio.NpzFile) -> Coactivation:
    config = json.loads(str(golden["config"]))
    shape = {k: v for k, v in config.items() if k not in ("B", "T", "vocab_size")}
    model = build("bdh", vocab_size=config["vocab_size"], **shape).double().eval()
    weights = {name.removeprefix(PARAMETER): golden[name] for name in golden.files if name.startswith(PARAMETER)}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    codes: list[np.ndarray] = []

    def keep(name: str, layer: int, tensor: torch.Tensor) -> None:
        if name == "x_sparse":
            codes.append(tensor.mean((0, 2)).numpy())

    with torch.no_grad(), listening(keep):
        for window_BT in golden["windows"]:
            model(torch.from_numpy(window_BT))
    updates = len(golden["windows"])
    codes_ULHN = np.stack(codes).reshape(updates, -1, *codes[0].shape)
    none = np.zeros(updates, dtype=np.int64)
    return Coactivation(codes_ULHN, np.arange(1, updates + 1), none, DAMPING, ETA, snapshot_every=1)


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
