"""How many weights are zero."""

from __future__ import annotations

from bdh.models.base import LanguageModel

SMALL = 1e-3


def weight_sparsity(model: LanguageModel) -> dict[str, float]:
    """Share of parameters that are exactly zero and share below 1e-3 in magnitude, tied ones counted once."""
    zeros = small = total = 0
    for parameter in model.parameters():
        magnitude = parameter.detach().abs()
        zeros += int((magnitude == 0).sum())
        small += int((magnitude < SMALL).sum())
        total += parameter.numel()
    return {"exact_zeros": zeros / max(total, 1), "below_0.001": small / max(total, 1)}
