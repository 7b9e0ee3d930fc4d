"""Golden vectors of the reservoirs: x, y, v per token, the last rho and the diagnostics, by the step form and the scan.

Names of quantities with `scan.` are those of the fast form. The NumPy codes divide by the size in their LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bdh.golden.vectors import read, relative_error
from bdh.reservoir.scan import scan
from bdh.reservoir.step import Rules, Weights, fresh_stream, step, stream_diagnostics


def check_recurrent(path: Path) -> dict[str, float]:
    """Largest relative error of every quantity in the file."""
    return _errors(path, _recurrent_rules)


def check_stabilized(path: Path) -> dict[str, float]:
    """Largest relative error of every quantity in the file."""
    return _errors(path, _stabilized_rules)


def check_neuro(path: Path) -> dict[str, float]:
    """Largest relative error of every quantity in the file: every mechanism alone, none, or all."""
    return _errors(path, _neuro_rules)


def _recurrent_rules(config: dict[str, Any], from_numpy: bool) -> Rules:
    """The dynamics behind a golden configuration."""
    return Rules(
        kernels=(config.get("u_decay", 0.97),),
        use_relu_lowrank=config.get("use_relu_lowrank", True),
        ln_before_Dy=config.get("ln_before_Dy", True),
        unbiased_std=not from_numpy,
    )


def _stabilized_rules(config: dict[str, Any], from_numpy: bool) -> Rules:
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


def _neuro_rules(config: dict[str, Any], from_numpy: bool) -> Rules:
    """The dynamics behind a golden configuration.

    The NumPy code has no leak, no normalisation and no k-WTA on x. The core of a fresh stream is one constant, so
    which neurons win is decided by ties: the last ones in NumPy, those that torch.topk names in torch.
    """
    kernels = config.get("U_kernels") or [config.get("u_decay", 0.97)]
    return replace(
        _recurrent_rules(config, from_numpy),
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


def _errors(path: Path, rules_of: Callable[[dict[str, Any], bool], Rules]) -> dict[str, float]:
    """Errors of both forms on one file, relative to the largest magnitude of each quantity."""
    vectors = read(path)
    golden, rules = vectors.arrays, rules_of(vectors.config, "numpy" in path.stem)
    matrices = {name: torch.from_numpy(array) for name, array in vectors.parameters.items()}
    weights = Weights(matrices["E"], matrices["Dx"], matrices["Dy"])
    e_TD = matrices["token_emb"][torch.from_numpy(golden["tokens"])]
    stream, ours = fresh_stream(1, weights, rules), []
    for e_D in e_TD:
        stream, _ = step(weights, rules, stream, e_D[None])
        numbers = {"x": stream.x_BN, "y": stream.y_BN, "v": stream.v_BD}
        metrics = {f"metric.{name}": value for name, value in stream_diagnostics(stream, rules).items()}
        ours.append({name: value[0] for name, value in (numbers | metrics).items()})
    found = {name: torch.stack([row[name] for row in ours]) for name in ours[0]}
    found["rho_final"] = stream.rho_BKDN[0].sum(0)
    trace, last = scan(weights, rules, fresh_stream(1, weights, rules), e_TD[None])
    assert trace.x_BTN is not None
    assert trace.y_BTN is not None
    fast = {"x": trace.x_BTN[0], "y": trace.y_BTN[0], "v": trace.v_BTD[0], "rho_final": last.rho_BKDN[0].sum(0)}
    errors = {name: relative_error(found[name], golden[name]) for name in found if name in golden}
    return errors | {f"scan.{name}": relative_error(value, golden[name]) for name, value in fast.items()}


CHECKS = {"recurrent_": check_recurrent, "stabilized_": check_stabilized, "neuro_": check_neuro}
