"""Stage B: every arm over the same held-out tokens, with weights that are shown not to change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bdh.errors import RunError
from bdh.files import replacing, write_json
from bdh.models.base import LanguageModel
from bdh.plasticity import coactivation
from bdh.plasticity.activity import Activity
from bdh.plasticity.arms import ARMS, Arm
from bdh.plasticity.coactivation import Coactivation
from bdh.plasticity.held_out import HeldOut
from bdh.plasticity.reader import Reader, weights_sha256
from bdh.plasticity.results import arm_report, cannot_run, document_table, unit_table
from bdh.plasticity.state import StateWatch

if TYPE_CHECKING:
    from bdh.params import Hebbian

LARGEST_CODES = 256 * 2**20
NO_CODES = "this variant taps no x_sparse, there is nothing to make a coactivation state of"


@dataclass(frozen=True)
class Rules:
    """damping per token; eta and snapshot_every of the coactivation state; resamplings of the bootstrap."""

    damping: float
    eta: float
    snapshot_every: int
    resamplings: int


def rules_of(settings: Hebbian) -> Rules:
    """The rules that the `hebbian` section of params.yaml states."""
    return Rules(settings.damping, settings.eta, settings.snapshot_every, settings.bootstrap)


@dataclass(frozen=True)
class Evaluation:
    """report: what reports/hebbian/<key>.json holds. documents, units (of the bootstrap): one row per arm and each of
    them. coactivation: None without."""

    report: dict[str, Any]
    documents: pd.DataFrame
    units: pd.DataFrame
    coactivation: Coactivation | None


def evaluate(
    model: LanguageModel,
    text: HeldOut,
    rules: Rules,
    *,
    device: torch.device | str = "cpu",
    bfloat16: bool = False,
) -> Evaluation:
    """Run every arm of `ARMS`.

    Raises RunError when a weight changed, when observing changed a prediction, when a model gives a surprisal that
    is not finite, or when the window is longer than the model can read.
    """
    limit = model.max_positions()
    if limit is not None and text.window > limit:
        raise RunError(f"hebbian window of {text.window} tokens: this model reads at most {limit}; make it shorter")
    before = weights_sha256(model)
    nats: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    activity = Activity(text, codes=codes_to_keep(model, text))
    watch = StateWatch(set(np.flatnonzero(np.diff(text.document, append=-1)).tolist()))
    for name, arm in ARMS.items():
        obstacle = arm.obstacle(model, text, rules.damping)
        if obstacle is not None:
            reasons[name] = obstacle
            continue
        reader = Reader(
            model,
            text,
            device=device,
            bfloat16=bfloat16,
            activity=activity if arm.watched else None,
            on_state=watch.take,
        )
        nats[name] = _read(name, arm, reader, rules.damping)
    after = weights_sha256(model)
    if before != after:
        raise RunError("stage B changed the weights of the model; its numbers are void")
    if not np.array_equal(nats["static"], nats["observe"]):
        raise RunError("observing the coactivation state changed a prediction; its numbers are void")
    state = coactivation_of(activity, text, rules)
    if state is None:
        reasons["observe"] = NO_CODES
    report = {
        "weights_sha256_before": before,
        "weights_sha256_after": after,
        "window": text.window,
        "tokens": text.scored,
        "bytes": int(text.token_bytes.sum()),
        "documents": len(text.documents),
        "questions": {name: arm.question for name, arm in ARMS.items()},
        "arms": {
            name: cannot_run(reasons[name])
            if name in reasons
            else arm_report(nats[name], nats["static"], text, resamplings=rules.resamplings)
            for name in ARMS
        },
        "density": activity.density(),
        "tap_means": activity.means(),
        "state": watch.report(text.document, text.window, rules.damping),
        "coactivation": None if state is None else {
            "updates": len(state.codes), "updates_in_text": text.windows, "snapshots": int(state.snapshots().size)
        },
    }  # fmt: skip
    kept = {name: values for name, values in nats.items() if name not in reasons}
    documents, units = document_table(kept, text), unit_table(kept, text)
    return Evaluation(report=report, documents=documents, units=units, coactivation=state)


def _read(name: str, arm: Arm, reader: Reader, damping: float) -> np.ndarray:
    arm.read(reader, damping)
    if not np.isfinite(reader.nats).all():
        raise RunError(f"arm {name}: the model gives a surprisal that is not finite; train it again")
    return reader.nats


def write(found: Evaluation, report: Path, identity: dict[str, Any], folder: Path) -> None:
    """Write the report (after `identity`); into `folder` documents.parquet, units.parquet, coactivation.safetensors."""
    coactivation.save(folder / "coactivation.safetensors", found.coactivation, found.report["window"])
    for name, table in (("documents", found.documents), ("units", found.units)):
        with replacing(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
    write_json(report, identity | found.report)


def codes_to_keep(model: LanguageModel, text: HeldOut) -> int:
    """How many windows' c vectors fit into 256 MiB, judged by the model's neurons; all of them when it has no graph."""
    factors = model.graph_factors()
    if factors is None:
        return text.windows
    layers = int(getattr(getattr(model, "config", None), "n_layer", 1))
    return min(text.windows, max(1, LARGEST_CODES // (4 * layers * factors.decoder.shape[0])))


def coactivation_of(activity: Activity, text: HeldOut, rules: Rules) -> Coactivation | None:
    """The coactivation state of the windows whose codes were kept, None when the model tapped no x_sparse."""
    codes = activity.codes()
    if codes is None:
        return None
    updates = len(codes)
    return Coactivation(
        codes=codes,
        tokens=text.bounds[1 : updates + 1].astype(np.int64),
        document=text.document[:updates].astype(np.int64),
        damping=rules.damping,
        eta=rules.eta,
        snapshot_every=rules.snapshot_every,
    )
