"""Golden vectors of `hebbian_block`: logits, the synapses at the end, and the share of active hidden units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from bdh.models.base import build
from bdh.models.hebbian_block import Model

PREFIX: tuple[str, ...] = ("hebbian_block",)


def check(path: Path) -> dict[str, float]:
    """Largest error of every quantity in `path`, relative to the largest magnitude that the quantity has."""
    with np.load(path, allow_pickle=False) as golden:
        arrays = {name: golden[name] for name in golden.files}
    shape = json.loads(str(arrays["config"]))
    model = build("hebbian_block", **{key: shape[key] for key in ("vocab_size", "n_layer", "n_embd", "n_head")})
    assert isinstance(model, Model)
    model.double().load_state_dict(
        {name.removeprefix("param."): torch.from_numpy(a) for name, a in arrays.items() if name.startswith("param.")}
    )
    tokens_BT = torch.from_numpy(arrays["idx"])
    with torch.no_grad():
        parallel = model(tokens_BT, state=model.initial_state(len(tokens_BT)))
        stepwise = model.stepwise(tokens_BT)
    assert parallel.state is not None and stepwise.state is not None
    density_L = np.array([layer["mlp_sparse"] for layer in model.activation_statistics(tokens_BT)])
    return {
        "logits": _error(parallel.logits, arrays["logits"]),
        "logits_stepwise": _error(stepwise.logits, arrays["logits"]),
        "sigma": _error(parallel.state["sigma"].transpose(0, 1), arrays["sigma"]),
        "sigma_stepwise": _error(stepwise.state["sigma"].transpose(0, 1), arrays["sigma"]),
        "mlp_density": _error(torch.from_numpy(density_L), arrays["mlp_density"]),
    }


def _error(ours: torch.Tensor, golden: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - golden).max() / np.abs(golden).max())
