"""Golden vectors of `stabilized`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bdh.golden.recurrent import reservoir_errors
from bdh.reservoir.step import Rules

PREFIX = ("stabilized_",)


def check(path: Path) -> dict[str, float]:
    """Largest relative error of every quantity in the file, by the step form and the scan."""
    return reservoir_errors(path, rules_of)


def rules_of(config: dict[str, Any], from_numpy: bool) -> Rules:
    """The dynamics behind a golden configuration."""
    return Rules(
        kernels=(config.get("u_decay", 0.97),),
        use_relu_lowrank=False,
        ln_before_Dy=config.get("ln_before_Dy", True),
        unbiased_std=not from_numpy,
        x_decay=config.get("x_decay", 0.97),
        x_normalized=True,
        threshold_ratio=config.get("threshold_ratio", 0.02),
    )
