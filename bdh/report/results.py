"""Everything of every run in one flat table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from bdh.files import replacing
from bdh.report.inputs import Inputs, Run

STAGES = ("train", "timing", "hebbian", "frontier")
OWN = {"variant", "corpus", "seed"}


def result_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """One row per run: key, variant, corpus, seed, what is missing, then `stage/...` for every single value."""
    return [_row(run) for run in inputs.runs]


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV in one step; columns in the order in which they first appear, absent values empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": run.key,
        "variant": run.variant,
        "corpus": run.corpus,
        "seed": run.seed,
        "missing": "; ".join(run.missing),
    }
    for stage in STAGES:
        for name, value in getattr(run, stage).values.items():
            if name not in OWN and not isinstance(value, list):
                row[f"{stage}/{name}"] = value
    return row
