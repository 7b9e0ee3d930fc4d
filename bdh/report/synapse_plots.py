"""How far learning moved the synapses of the variants that may learn locally."""

from __future__ import annotations

import itertools

from bdh.errors import RunError
from bdh.report.figure import Curve, Panel
from bdh.report.inputs import Inputs, Run
from bdh.report.palette import slot_of


def synapse_panels(inputs: Inputs, corpus: str) -> list[Panel]:
    """The histogram of weight changes of every run that recorded one, pooled over its maps; one line per variant."""
    curves = []
    for variant in inputs.variants:
        found = [points for run in inputs.of(corpus, variant) if (points := change_shares(run))]
        if found:
            curves.append(Curve(variant, slot_of(inputs.variants, variant), *found[0]))
    return [
        Panel(
            f"{corpus}-weight-changes",
            "How far learning moved the synapses",
            "weight minus initial weight, in root mean squares of the change",
            "share of synapses",
            curves,
            log_y=True,
            note="Surviving synapses of all hidden maps together, first seed. Where nothing moved there is no line.",
        )
    ]


def change_shares(run: Run) -> tuple[list[float], list[float]] | None:
    """Centre of every bin in root mean squares of the change, and the share of synapses in it; empty bins are left out.

    None without a record, and where nothing moved. Raises RunError when the bins of the maps differ.
    """
    record = run.weight_changes
    maps = list(dict.fromkeys(key.split("/")[0] for key in record.values))
    if not maps:
        return None
    edges = record.values[f"{maps[0]}/edges"]
    if any(record.values[f"{name}/edges"] != edges for name in maps):
        raise RunError(f"{record.path} is damaged (its maps have different bins); delete it and run `dvc repro`")
    counts = [sum(column) for column in zip(*(record.values[f"{name}/counts"] for name in maps), strict=True)]
    total = sum(counts)
    weights = [sum(record.values[f"{name}/counts"]) for name in maps]
    squares = [(record.number(f"{name}/rms") or 0.0) ** 2 for name in maps]
    spread = (sum(w * s for w, s in zip(weights, squares, strict=True)) / total) ** 0.5 if total else 0.0
    if spread == 0:
        return None
    centres = [(low + high) / 2 / spread for low, high in itertools.pairwise(edges)]
    kept = [(place, count / total) for place, count in zip(centres, counts, strict=True) if count]
    return [place for place, _ in kept], [share for _, share in kept]
