"""Golden vectors of the coactivation state: three updates of the official model's sigma, from its c vectors alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bdh.golden.official import official_model
from bdh.golden.vectors import Vectors, read, relative_error
from bdh.hebbian.coactivation import Coactivation, decay_weights, inner_products, pearson, sums
from bdh.nn.probe import listening

PREFIX = "official_"
DAMPING = 0.99
ETA = 0.005


def check(path: Path) -> dict[str, float]:
    """Relative error of sigma after three windows (layer 0), of inner products, sums and Pearson correlations."""
    vectors = read(path)
    state = read_windows(vectors)
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
    return {name: relative_error(value, vectors.arrays[name]) for name, value in ours.items()}


def read_windows(vectors: Vectors) -> Coactivation:
    """The coactivation state of the file's model over its windows, one update each."""
    model = official_model(vectors)
    windows_UBT = vectors.arrays["windows"]
    codes: list[np.ndarray] = []

    def keep(name: str, layer: int, tensor: Tensor) -> None:
        if name == "x_sparse":
            codes.append(tensor.mean((0, 2)).numpy())

    with torch.no_grad(), listening(keep):
        for window_BT in windows_UBT:
            model(torch.from_numpy(window_BT))
    updates = len(windows_UBT)
    codes_ULHN = np.stack(codes).reshape(updates, -1, *codes[0].shape)
    nothing = np.zeros(updates, dtype=np.int64)
    return Coactivation(codes_ULHN, np.arange(1, updates + 1), nothing, DAMPING, ETA, snapshot_every=1)
