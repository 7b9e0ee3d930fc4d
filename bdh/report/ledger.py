"""The claims ledger as data: one row per claim with its verdict, its rule and the results that it rests on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from bdh.files import replacing, write_json
from bdh.report.claims import evidence, judge
from bdh.report.inputs import Inputs

COLUMNS = ("number", "claim", "made_in", "verdict", "measured", "uncertainty", "rule", "evidence")


def ledger_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """One row per claim; `evidence` lists the files of results that were there, relative to the project."""
    return [
        {
            "number": claim.number,
            "claim": claim.statement,
            "made_in": claim.made_in,
            "verdict": finding.verdict,
            "measured": finding.measured,
            "uncertainty": finding.uncertainty,
            "rule": finding.rule,
            "evidence": evidence(claim, inputs),
        }
        for claim, finding in judge(inputs)
    ]


def write_ledger(folder: Path, inputs: Inputs) -> list[Path]:
    """Write claims.json (scale, axes and rows) and claims.csv (the rows, evidence joined by spaces)."""
    rows = ledger_rows(inputs)
    axes = {"variants": list(inputs.variants), "corpora": list(inputs.corpora), "seeds": list(inputs.seeds)}
    write_json(folder / "claims.json", {"scale": inputs.scale, **axes, "rows": rows})
    table = folder / "claims.csv"
    with replacing(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"evidence": " ".join(row["evidence"])} for row in rows)
    return [folder / "claims.json", table]
