"""Stage B: every arm over the same held-out tokens, with weights that are shown not to change.

The surprisal of every scored token in every arm and at every damping of the sweep; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bdh.hebbian import arms as living
from bdh.hebbian import coactivation
from bdh.hebbian.activity import Activity
from bdh.hebbian.arms import ARMS, STATE_ARMS
from bdh.hebbian.coactivation import Coactivation
from bdh.hebbian.held_out import HeldOut
from bdh.hebbian.reader import Reader, weights_sha256
from bdh.hebbian.scores import ABSENT, Scores, cannot_run, document_table, unit_table
from bdh.hebbian.state import StateWatch, half_life
from bdh.models.base import LanguageModel, State
from bdh.project.errors import RunError
from bdh.project.files import replacing, write_json

if TYPE_CHECKING:
    from bdh.params import Hebbian

MakeReader = Callable[[Activity | None], Reader]
MEMORY = ("half_life_measured_tokens", "norm", "effective_rank")


@dataclass
class Readings:
    """arms: surprisal (P) by arm. reasons: why the others were not run. carry, watches: surprisal of arm `carry`, and
    what its states were like, by damping."""

    watches: dict[float, StateWatch]
    arms: dict[str, np.ndarray] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    carry: dict[float, np.ndarray] = field(default_factory=dict)

    def sweep(self, scores: Scores, text: HeldOut, rules: Rules) -> dict[str, Any]:
        """`rows`: arm `carry` at every damping, ascending: its scores, the half-life that damping alone gives and the
        one measured, norm and effective rank of the state. Without a state: no rows and the `reason`."""
        if not self.carry:
            return {"rows": [], "reason": self.reasons["carry"]}
        rows = []
        for damping in sorted(self.carry):
            memory = self.watches[damping].report(text.document, text.window, damping)
            row = {
                "damping": damping,
                "half_life_tokens": half_life(damping),
                **{name: memory[name] for name in MEMORY},
            }
            rows.append(row | scores.total(self.carry[damping]))
        return {"rows": rows}


def read_everything(text: HeldOut, rules: Rules, activity: Activity, make_reader: MakeReader) -> Readings:
    """Read the text once per arm; arms `carry` (at every damping) and `shuffled` share one pass.

    `make_reader` makes a reader, watched by `activity` when that is passed to it. Raises RunError when a surprisal is
    not finite.
    """
    ends = set(np.flatnonzero(np.diff(text.document, append=-1)).tolist())
    found = Readings({damping: StateWatch(ends) for damping in rules.dampings})
    for name, arm in ARMS.items():
        reader = make_reader(activity if arm.watched else None)
        obstacle = arm.obstacle(reader.model, text, rules.damping)
        if obstacle is not None:
            found.reasons[name] = obstacle
        elif name not in STATE_ARMS:
            arm.read(reader, rules.damping)
            found.arms[name] = _finite(name, reader.nats)
    if "carry" not in found.reasons:
        _read_living(found, make_reader(None), rules)
    return found


def _read_living(found: Readings, reader: Reader, rules: Rules) -> None:
    def watch(damping: float, windows: list[int], state: State) -> None:
        found.watches[damping].take(windows, state)

    donors = "shuffled" not in found.reasons
    read = living.read(reader, rules.dampings, donors=donors, on_state=watch)
    found.carry = {damping: _finite(f"carry at damping {damping}", nats) for damping, nats in read.carry.items()}
    found.arms["carry"] = found.carry[rules.damping]
    if read.shuffled is not None:
        found.arms["shuffled"] = _finite("shuffled", read.shuffled)


def _finite(name: str, nats: np.ndarray) -> np.ndarray:
    if not np.isfinite(nats).all():
        raise RunError(f"arm {name}: the model gives a surprisal that is not finite; train it again")
    return nats


LARGEST_CODES = 256 * 2**20
NO_CODES = "this variant has no positive codes (x_sparse, k_sparse) to make a coactivation state of"


@dataclass(frozen=True)
class Rules:
    """damping per token; eta and snapshot_every of the coactivation state; resamplings of the bootstrap; sweep: further
    dampings of arm `carry`."""

    damping: float
    eta: float
    snapshot_every: int
    resamplings: int
    sweep: tuple[float, ...] = ()

    @property
    def dampings(self) -> list[float]:
        """The damping of the arms, then the others of the sweep."""
        return list(dict.fromkeys((self.damping, *self.sweep)))


def rules_of(settings: Hebbian) -> Rules:
    """The rules that the `hebbian` section of params.yaml states."""
    sweep = tuple(settings.damping_sweep)
    return Rules(settings.damping, settings.eta, settings.snapshot_every, settings.bootstrap, sweep)


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
    """Run every arm of `ARMS`, and arm `carry` at every damping of the sweep.

    Raises RunError when a weight changed, when observing changed a prediction, when a model gives a surprisal that
    is not finite, or when the window is longer than the model can read.
    """
    limit = model.max_positions()
    if limit is not None and text.window > limit:
        raise RunError(f"hebbian window of {text.window} tokens: this model reads at most {limit}; make it shorter")
    before = weights_sha256(model)
    activity = Activity(text, codes=codes_to_keep(model, text))
    readings = read_everything(
        text, rules, activity, lambda watched: Reader(model, text, device=device, bfloat16=bfloat16, activity=watched)
    )
    after = weights_sha256(model)
    if before != after:
        raise RunError("stage B changed the weights of the model; its numbers are void")
    if not np.array_equal(readings.arms["static"], readings.arms["observe"]):
        raise RunError("observing the coactivation state changed a prediction; its numbers are void")
    state = coactivation_of(activity, text, rules)
    reasons = readings.reasons | ({} if state is not None else {"observe": NO_CODES})
    kept = {name: values for name, values in readings.arms.items() if name not in reasons}
    scores = Scores(text, readings.arms["static"], rules.resamplings)
    report = {
        "weights_sha256_before": before,
        "weights_sha256_after": after,
        "window": text.window,
        "tokens": text.scored,
        "bytes": int(text.token_bytes.sum()),
        "documents": len(text.documents),
        "questions": {name: arm.question for name, arm in ARMS.items()},
        "arms": {name: scores.arm(kept[name]) if name in kept else cannot_run(reasons[name]) for name in ARMS},
        "no_strata": {kind: reason for kind, reason in ABSENT.items() if not scores.strata[kind].labels},
        "damping_sweep": readings.sweep(scores, text, rules),
        "density": activity.density(),
        "tap_means": activity.means(),
        "state": readings.watches[rules.damping].report(text.document, text.window, rules.damping),
        "coactivation": None if state is None else {
            "updates": len(state.codes), "updates_in_text": text.windows, "snapshots": int(state.snapshots().size)
        },
    }  # fmt: skip
    return Evaluation(report, document_table(kept, text), unit_table(kept, text), state)


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
    return min(text.windows, max(1, LARGEST_CODES // (4 * model.layers * factors.decoder.shape[0])))


def coactivation_of(activity: Activity, text: HeldOut, rules: Rules) -> Coactivation | None:
    """The coactivation state of the windows whose codes were kept, None when the model tapped no codes."""
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
