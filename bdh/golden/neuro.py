"""Golden vectors of `neuro`: every mechanism alone, none, all; the torch and the NumPy code differ in x and in ties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bdh.golden.recurrent import reservoir_errors
from bdh.golden.recurrent import rules_of as plain_rules_of
from bdh.reservoir.step import Rules

PREFIX = ("neuro_",)


def check(path: Path) -> dict[str, float]:
    """Largest relative error of every quantity in the file, by the step form and the scan."""
    return reservoir_errors(path, rules_of)


def rules_of(config: dict[str, Any], from_numpy: bool) -> Rules:
    """The dynamics behind a golden configuration.

    The NumPy code has no leak, no normalisation and no k-WTA on x. The core of a fresh stream is one constant, so
    which neurons win is decided by ties: the last ones in NumPy, those that torch.topk names in torch.
    """
    kernels = config.get("U_kernels") or [config.get("u_decay", 0.97)]
    return replace(
        plain_rules_of(config, from_numpy),
        kernels=tuple(kernels),
        kernel_weights=tuple(config.get("U_weights") or [1.0] * len(kernels)),
        x_decay=1.0 if from_numpy else config.get("x_decay", 0.97),
        x_normalized=not from_numpy,
        x_kwta=not from_numpy,
        branches=config.get("branches", 0),
        branch_nl=config.get("branch_nl", "softplus"),
        k_wta=config.get("k_wta") or 0,
        ties="last" if from_numpy else "topk",
        homeostasis_tau=config.get("homeostasis_tau") or 0.0,
        mod_gamma_max=config.get("mod_gamma_max", 1.0),
        local_forget_eta=config.get("local_forget_eta", 0.0),
    )
