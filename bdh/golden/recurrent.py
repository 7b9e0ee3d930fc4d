"""Golden vectors of `recurrent`: x, y, v per token, the last rho and the diagnostics, by the step form and the scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bdh.golden.vectors import read, relative_error
from bdh.reservoir.scan import scan
from bdh.reservoir.step import ReservoirWeights, Rules, fresh_stream, step, stream_diagnostics

PREFIX = ("recurrent_",)


def check(path: Path) -> dict[str, float]:
    """Largest relative error of every quantity in the file; names with `scan.` are those of the fast form."""
    return reservoir_errors(path, rules_of)


def rules_of(config: dict[str, Any], from_numpy: bool) -> Rules:
    """The dynamics behind a golden configuration; the NumPy code divides by the size in its LayerNorm."""
    return Rules(
        kernels=(config.get("u_decay", 0.97),),
        use_relu_lowrank=config.get("use_relu_lowrank", True),
        ln_before_Dy=config.get("ln_before_Dy", True),
        unbiased_std=not from_numpy,
    )


def reservoir_errors(path: Path, rules_of_config: Callable[[dict[str, Any], bool], Rules]) -> dict[str, float]:
    """Errors of both forms on one file, relative to the largest magnitude of each quantity."""
    vectors = read(path)
    golden, rules = vectors.arrays, rules_of_config(vectors.config, "numpy" in path.stem)
    matrices = {name: torch.from_numpy(array) for name, array in vectors.parameters.items()}
    weights = ReservoirWeights(matrices["E"], matrices["Dx"], matrices["Dy"])
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
