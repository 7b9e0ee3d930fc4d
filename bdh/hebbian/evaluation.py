"""Stage B: every arm over the same held-out tokens, with weights that are shown not to change.

The surprisal of every scored token in every arm, arm `carry` also at every damping of the sweep, and the report that is
made of them; nothing is judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bdh.hebbian import coactivation
from bdh.hebbian.activity import Activity
from bdh.hebbian.arms import ARMS, Readings
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.reader import weights_sha256
from bdh.hebbian.scores import ABSENT, Scores, cannot_run, document_table, unit_table
from bdh.hebbian.state import half_life
from bdh.models.base import LanguageModel
from bdh.params import Hebbian
from bdh.project.errors import RunError
from bdh.project.files import replacing, write_json

LARGEST_CODES = 256 * 2**20
MEMORY = ("half_life_measured_tokens", "norm", "effective_rank")
NO_CODES = "this variant has no positive codes (x_sparse, k_sparse) to make a coactivation state of"


@dataclass(frozen=True)
class Evaluation:
    """report: what hebbian/<key>.json holds. documents, units (of the bootstrap): one row per arm and each of
    them. coactivation: None without."""

    report: dict[str, Any]
    documents: pd.DataFrame
    units: pd.DataFrame
    coactivation: Coactivation | None


def evaluate(
    model: LanguageModel,
    text: HeldOut,
    settings: Hebbian,
    *,
    device: torch.device | str = "cpu",
    bfloat16: bool = False,
) -> Evaluation:
    """Run every arm of `ARMS`, and arm `carry` at every damping of the sweep.

    Raises RunError when a weight changed, when observing changed a prediction, when a model gives a surprisal that
    is not finite, or when the window is longer than the model can read.
    """
    limit = model.max_positions()
    if limit is not None and text.window > limit:
        raise RunError(f"hebbian window of {text.window} tokens: this model reads at most {limit}; make it shorter")
    before = weights_sha256(model)
    activity = Activity(text, codes=codes_to_keep(model, text))
    dampings = (settings.damping, *settings.damping_sweep)
    readings = Readings(
        model, text, dampings, overlaps=settings.overlaps, activity=activity, device=device, bfloat16=bfloat16
    )
    arms, reasons = _read_arms(readings)
    after = weights_sha256(model)
    if before != after:
        raise RunError("stage B changed the weights of the model; its numbers are void")
    if not np.array_equal(arms["static"], arms["observe"]):
        raise RunError("observing the coactivation state changed a prediction; its numbers are void")
    scores = Scores(text, arms["static"], settings.bootstrap, overlap=arms.get("overlap"))
    state = coactivation_of(activity, text, settings)
    if state is None:
        reasons["observe"] = NO_CODES
        del arms["observe"]
    report = {
        "weights_sha256_before": before,
        "weights_sha256_after": after,
        "window": text.window,
        "tokens": text.scored,
        "bytes": int(text.token_bytes.sum()),
        "documents": len(text.documents),
        "questions": {name: arm.question for name, arm in ARMS.items()},
        "arms": {name: scores.arm(arms[name]) if name in arms else cannot_run(reasons[name]) for name in ARMS},
        "no_strata": {kind: reason for kind, reason in ABSENT.items() if not scores.strata[kind].labels},
        "damping_sweep": _sweep(readings, scores, reasons.get("carry")),
        "density": activity.density(),
        "tap_means": activity.means(),
        "state": readings.watches[settings.damping].report(text.document, text.window, settings.damping),
        "coactivation": None if state is None else {
            "updates": len(state.codes), "updates_in_text": text.windows, "snapshots": int(state.snapshots().size)
        },
    }  # fmt: skip
    return Evaluation(report, document_table(arms, text), unit_table(arms, text), state)


def _read_arms(readings: Readings) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Surprisal (P) by arm, and why the other arms were not run."""
    arms, reasons = {}, {}
    for name, arm in ARMS.items():
        obstacle = arm.obstacle(readings)
        if obstacle is None:
            arms[name] = _finite(name, arm.read(readings))
        else:
            reasons[name] = obstacle
    return arms, reasons


def _sweep(readings: Readings, scores: Scores, obstacle: str | None) -> dict[str, Any]:
    """`rows`: arm `carry` at every damping, ascending: its scores, the half-life that damping alone gives and the one
    measured, norm and effective rank of the state. Without a state: no rows and the `reason`."""
    if obstacle is not None:
        return {"rows": [], "reason": obstacle}
    text, rows = readings.text, []
    for damping in sorted(readings.dampings):
        nats = _finite(f"carry at damping {damping}", readings.carried.carry[damping])
        memory = readings.watches[damping].report(text.document, text.window, damping)
        row = {"damping": damping, "half_life_tokens": half_life(damping), **{name: memory[name] for name in MEMORY}}
        rows.append(row | scores.total(nats))
    return {"rows": rows}


def _finite(name: str, nats: np.ndarray) -> np.ndarray:
    if not np.isfinite(nats).all():
        raise RunError(f"arm {name}: the model gives a surprisal that is not finite; train it again")
    return nats


def write(found: Evaluation, report: Path, identity: dict[str, Any], folder: Path) -> None:
    """Write the report (after `identity`); into `folder` documents.parquet, units.parquet, coactivation.safetensors."""
    coactivation.save(folder / "coactivation.safetensors", found.coactivation, found.report["window"])
    for name, table in (("documents", found.documents), ("units", found.units)):
        with replacing(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
    write_json(report, identity | found.report)


def write_absent(reason: str, report: Path, identity: dict[str, Any], folder: Path) -> None:
    """Write that there is no model to evaluate, and why: a report without arms, and the `reason` alone in `folder`."""
    why = {"reason": f"not measured: {reason}"}
    write_json(folder / "not_measured.json", why)
    empty: dict[str, Any] = {
        "arms": {},
        "damping_sweep": {"rows": []} | why,
        "density": {},
        "state": {},
        "coactivation": None,
    }
    write_json(report, identity | why | empty)


def codes_to_keep(model: LanguageModel, text: HeldOut) -> int:
    """How many windows' c vectors fit into 256 MiB, judged by the model's neurons; all of them when it has no graph."""
    factors = model.graph_factors()
    if factors is None:
        return text.windows
    return min(text.windows, max(1, LARGEST_CODES // (4 * model.layers * factors.decoder.shape[0])))


def coactivation_of(activity: Activity, text: HeldOut, settings: Hebbian) -> Coactivation | None:
    """The coactivation state of the windows whose codes were kept, None when the model tapped no codes."""
    codes = activity.codes()
    if codes is None:
        return None
    updates = len(codes)
    return Coactivation(
        codes=codes,
        tokens=text.bounds[1 : updates + 1].astype(np.int64),
        document=text.document[:updates].astype(np.int64),
        damping=settings.damping,
        eta=settings.eta,
        snapshot_every=settings.snapshot_every,
    )
