"""What learning did to the synapses: how many are left, how many neurons speak, how far weights have moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bdh.nn.pruning import PrunableLinear

BINS = 40


def weight_sparsity(synapses: Mapping[str, PrunableLinear]) -> tuple[int, int]:
    """Synapses that carry nothing (pruned, or exactly zero), and all of them."""
    silent = sum(int((linear.weight * linear.mask == 0).sum()) for linear in synapses.values())
    return silent, sum(linear.weight.numel() for linear in synapses.values())


@torch.no_grad()
def change_histogram(synapses: Mapping[str, PrunableLinear], bins: int = BINS) -> dict[str, dict[str, Any]]:
    """Histogram of `weight - initial weight` over the surviving synapses of every map; ready for JSON.

    Per name: `edges` (bins + 1, symmetric about zero, the same for all maps), `counts` (bins), `rms` (root mean square
    change) and `pruned` (synapses left out because they are gone).
    """
    changes = {name: _change(linear) for name, linear in synapses.items()}
    reach = max((float(change.abs().max()) for change in changes.values() if change.numel()), default=0.0) or 1.0
    return {
        name: _histogram(change, reach, bins) | {"pruned": int((~synapses[name].mask).sum())}
        for name, change in changes.items()
    }


def _change(linear: PrunableLinear) -> Tensor:
    return (linear.weight - linear.initial_weight())[linear.mask].float().cpu()


def _histogram(change: Tensor, reach: float, bins: int) -> dict[str, Any]:
    counts: Tensor = torch.histc(change, bins=bins, min=-reach, max=reach)
    return {
        "edges": torch.linspace(-reach, reach, bins + 1).tolist(),
        "counts": [int(count) for count in counts],
        "rms": float(change.square().mean().sqrt()) if change.numel() else 0.0,
    }
